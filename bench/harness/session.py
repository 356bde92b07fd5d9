# SPDX-License-Identifier: MIT OR Apache-2.0
"""One run of the benchmark: places, images, rounds; what was measured is kept in `results`."""

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time

from . import contenders as who
from . import images, medium, trace
from .programs import Failed, output

# A peer that no goal is set against takes part in no more rounds; with --quick in one, and its calls are not traced.
OTHERS_ROUNDS = 3
# Nor does one that takes more than this many seconds in its first; or in fewer.
SLOW = [(8, 1), (1, 3)]
# No run takes longer, or something hangs.
LIMIT_SECONDS = 60

# Beyond what the map says: extent blocks, and preallocation that is given back late.
ALLOCATION_SLACK = 1.02, 1 << 20

CACHED, COLD, TMPFS = "ext4, cached", "ext4, cold", "tmpfs, cached"
SECTIONS, SIZES = "sections", "sizes"

# Where less than everyone takes part.
CURVES = [who.ZERO_COPY, who.WIRE, who.OURS_FILE, who.CP]
CACHED_IMAGES = ["one", "eight", "many", "tebibyte", images.ZEROS, images.FILESYSTEM]
TMPFS_IMAGES = ["one", "many"]
TMPFS_NAMES = [who.ZERO_COPY, who.READ_WRITE, who.WIRE, who.LIMIT_FILE, who.LIMIT_SPLICE, who.OURS_FILE, who.CP]
COLD_IMAGES = ["one", images.CLUSTERS, images.FILESYSTEM, images.FRAGMENTS]
COLD_NAMES = [who.ZERO_COPY, who.WIRE, who.NBD_UP, who.VIRSH_UP, who.LIMIT_FILE, who.OURS_FILE, who.CP]
# The millionth section of 4 KiB: a source and a copy of 4 GiB, in memory.
SECTIONS_MEMORY = 12 << 30
# Of a contender with its daemon, and of the kernel for it.
MEMORY_OF_PROCESSES = 256 << 20


def say(*words):
    print(f"{time.strftime('%H:%M:%S')}", *words, file=sys.stderr, flush=True)


class Session:
    def __init__(self, programs, arguments):
        self.programs = programs
        self.quick = arguments.quick
        self.traced_sections = (128, 640) if self.quick else (512, 2560)
        self.rounds = arguments.rounds or (3 if self.quick else 7)
        self.directory = arguments.dir
        self.only = arguments.only
        self.part = arguments.part
        self.wrong = []
        self.results = {"machine": machine(), "rounds": self.rounds, "images": {}, "runs": {}, "traces": {},
                        "contests": {}, "skipped": []}
        self.everyone = []
        for contender in who.everyone(programs):
            reason = contender.missing()
            if self.only and not any(word in contender.name for word in self.only):
                reason = "not asked for"
            if reason:
                self.skip(contender.name, reason)
                continue
            self.everyone.append(contender)
            for name, reason in contender.spared.items():
                self.skip(f"{contender.name}, {name}", reason)

    def skip(self, what, reason):
        say(f"skipped: {what}: {reason}")
        self.results["skipped"].append([what, reason])

    def run(self):
        begun = time.monotonic()
        with contextlib.ExitStack() as top:
            self._top = tempfile.mkdtemp(prefix="ssbench-", dir=self.directory)
            top.callback(shutil.rmtree, self._top, ignore_errors=True)
            os.chmod(self._top, 0o755)
            for name, make, use in (("cache", self._ext4, self._cached), ("disk", self._disk, self._cold),
                                    ("memory", self._tmpfs, self._memory), ("medium", self._disk, self._medium)):
                if self.part not in (None, name):
                    continue
                with contextlib.ExitStack() as stack:
                    try:
                        place = make(stack, name)
                    except Failed as failure:
                        self.skip(name, str(failure))
                        continue
                    # Peers that run as another user write there too.
                    os.makedirs(os.path.join(place, "out"), exist_ok=True)
                    os.chmod(os.path.join(place, "out"), 0o777)
                    os.chmod(place, 0o755)
                    use(place)
        self.results["seconds"] = round(time.monotonic() - begun)

    # Places

    def _directory(self, stack, name):
        place = os.path.join(self._top, name)
        os.mkdir(place)
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        return place

    def _ext4(self, stack, name):
        """For files in cache: the disk, or memory where the disk is not ext4 or would take part in the end.

        A file system that discards what is removed takes a minute to remove a copy of many sections.
        """
        place = self._directory(stack, name)
        kind, options = file_system(place)
        if kind == "ext4" and "discard" not in options:
            return place
        if os.geteuid() != 0:
            self.skip("ext4 of its own", f"no root to mount it; the {kind} that is there is used")
            return place
        below = self._tmpfs(stack, name + ".below")
        self._loop(stack, os.path.join(below, "image"), place)
        self.results["machine"]["cached on"] = "ext4 on a loop device in memory"
        return place

    def _disk(self, stack, name):
        """For cold files: the disk."""
        place = self._directory(stack, name)
        kind, _ = file_system(place)
        if kind != "ext4" and os.geteuid() == 0:
            self._loop(stack, place + ".img", place)
            self.results["machine"]["cold on"] = f"ext4 on a loop device on {kind}"
        else:
            self.results["machine"]["cold on"] = kind
        return place

    @staticmethod
    def _loop(stack, image, place):
        output("truncate", "-s", "8G", image)
        stack.callback(os.unlink, image)
        output("mke2fs", "-q", "-t", "ext4", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", image)
        # Without a cache of its own below the one that is measured.
        device = output("losetup", "-f", "--show", "--direct-io=on", image).strip()
        stack.callback(output, "losetup", "-d", device)
        output("mount", device, place)
        stack.callback(unmount, place)

    def _tmpfs(self, stack, name):
        if os.geteuid() == 0:
            place = self._directory(stack, name)
            output("mount", "-t", "tmpfs", "-o", "size=80%,mode=0755", "tmpfs", place)
            stack.callback(unmount, place)
            return place
        if not os.access("/dev/shm", os.W_OK):
            raise Failed("no root to mount a tmpfs, and no /dev/shm")
        place = tempfile.mkdtemp(prefix="ssbench-", dir="/dev/shm")
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        return place

    # Directories, and the images in them

    def _make(self, place, names, catalogue=None):
        """Images in a directory: paths by name."""
        catalogue = catalogue or (images.QUICK if self.quick else images.FULL)
        paths = {}
        for name in names:
            title, specification = catalogue[name]
            say(f"makes {title}")
            try:
                paths[name] = images.make(self.programs, place, name, specification)
            except Failed as failure:
                self.skip(f"image {name}", str(failure))
                continue
            self.results["images"][name] = {"title": title, **self.programs.map(paths[name])}
        return paths

    def _cached(self, place):
        self.compete(CACHED, place, self._make(place, CACHED_IMAGES), self.everyone)
        self._contests(place)
        if shutil.which("strace") is None:
            self.skip("system calls", "no strace")
        else:
            self._traces(place)

    def _cold(self, place):
        if self.quick:
            return
        if os.geteuid() != 0:
            self.skip(COLD, "no root to drop the caches")
            return
        self.compete(COLD, place, self._make(place, COLD_IMAGES), self._named(COLD_NAMES), cold=True)

    def _medium(self, place):
        if self.quick and self.part != "medium":
            return
        if os.geteuid() != 0:
            self.skip("to the medium", "no root to drop the caches")
            return
        self.results["medium"] = {"rounds": self.rounds, "load": [round(os.getloadavg()[0], 1)]}
        made = self._make(place, medium.IMAGES, medium.QUICK if self.quick else medium.IMAGES)
        # From a file system that knows it alone: what another contender left in the cache does not count.
        os.sync()
        self.compete(medium.DURABLE, place, made, self._able(medium.durable))
        self.compete(medium.DIRECT_COLD, place, made, self._able(medium.cold), cold=True)
        clusters = {name: path for name, path in made.items() if name == medium.CLUSTERS64}
        self.compete(medium.READS, place, clusters, self._able(medium.reads), cold=True)
        self.results["medium"]["load"].append(round(os.getloadavg()[0], 1))

    def _able(self, make):
        """Contenders of which nothing is missing."""
        found = []
        for contender in make(self.programs):
            reason = contender.missing()
            if self.only and not any(word in contender.name for word in self.only):
                reason = "not asked for"
            if reason:
                self.skip(contender.name, reason)
            else:
                found.append(contender)
        return found

    def _memory(self, place):
        if not self.quick:
            paths = {}
            for name in TMPFS_IMAGES:
                paths[name] = images.make(self.programs, place, name, images.FULL[name][1])
            self.compete(TMPFS, place, paths, self._named(TMPFS_NAMES))
            for path in paths.values():
                os.unlink(path)
        self._curve(SECTIONS, place, [1, 16, 256, 4096] + ([] if self.quick else [65536, 1048576]),
                    lambda count: [8192 * count, count, 4096])
        sizes = [1 << 30, 1 << 40, (1 << 63) - 1] if self.quick else \
            [1 << power for power in range(30, 63, 5)] + [(1 << 63) - 1]
        self._curve(SIZES, place, sizes, lambda size: [size, 64, "1M"])

    def _named(self, names):
        return [contender for contender in self.everyone if contender.name in names]

    def _curve(self, key, place, points, specification):
        for point in points:
            if key == SECTIONS and point >= 1 << 20 and free_memory() < SECTIONS_MEMORY:
                self.skip(f"{point} sections", "not enough memory")
                continue
            path = os.path.join(place, str(point))
            try:
                self.programs.make_image(path, *specification(point))
            except Failed as failure:
                self.skip(f"{key}: {point}", str(failure))
                continue
            self.compete(key, place, {str(point): path}, self._named(CURVES),
                         rounds=min(self.rounds, 5 if point < 1 << 20 or key == SIZES else 3))
            os.unlink(path)

    # Runs

    def compete(self, key, place, paths, contenders, rounds=None, cold=False):
        """All contenders with all images, taking turns, round after round."""
        say(f"{key}: {', '.join(paths)}: {len(contenders)} contenders")
        cell = self.results["runs"].setdefault(key, {})
        maps = {name: self.programs.map(path) for name, path in paths.items()}
        active = []
        try:
            for contender in contenders:
                try:
                    contender.enter(place)
                    active.append(contender)
                except Failed as failure:
                    self.skip(f"{key}: {contender.name}", str(failure))
            for number in range(rounds or self.rounds):
                for name, path in paths.items():
                    turns = [contender for contender in active
                             if contender.wants(name)]
                    turns = turns[number % len(turns):] + turns[:number % len(turns)] if turns else []
                    for contender in turns:
                        runs = cell.setdefault(name, {}).setdefault(contender.name, {
                            "group": contender.group, "route": contender.route, "detects": contender.detects,
                            "wall": [], "cpu": [], "peak": 0, "allocated": 0, "failure": "",
                            **({"left": 0} if key in medium.PLACES else {})})
                        if not runs["failure"] and number < self._rounds_of(key, contender, runs, cold):
                            self._once(key, place, path, maps[name], contender, runs, cold)
                say(f"  round {number + 1}")
        finally:
            for contender in active:
                contender.leave()

    def _rounds_of(self, key, contender, runs, cold):
        if contender.group != who.PEER or key in medium.PLACES:
            return self.rounds
        if runs["wall"]:
            for seconds, rounds in SLOW:
                if runs["wall"][0] > seconds * 1e9:
                    return rounds
        if cold or contender.name not in who.NAMED:
            return 1 if self.quick else OTHERS_ROUNDS
        return self.rounds

    def _once(self, key, place, path, source, contender, runs, cold):
        try:
            job = contender.prepare(place, path)
        except Failed as failure:
            runs["failure"] = str(failure)
            return
        try:
            if cold:
                drop_caches()
            elif key in medium.PLACES:
                # Dirty pages of other processes, and discarded blocks of the last copy.
                os.sync()
            memory = memory_of_run(source["allocated"], cold and key not in medium.PLACES) if contender.buffered else 0
            measured = self.programs.measure(os.path.join(place, "measured"), job.command, job.pids, LIMIT_SECONDS,
                                             memory)
            measured = job.measured(measured)
            if key in medium.PLACES and not measured["failure"]:
                left = medium.pages_left([job.copy, path] if cold else [job.copy])
                runs["left"] = max(runs["left"], left)
            failure = measured["failure"]
            # To read a copy back from the medium takes longer than to make it.
            if not failure and not (key in medium.PLACES and runs["wall"]):
                failure = self._difference(path, source, job.copy, contender, runs)
        except Failed as error:
            failure = str(error)
        finally:
            job.done()
        if failure:
            runs["failure"] = failure
            say(f"  {contender.name}, {os.path.basename(path)}: {failure}")
            if contender.group != who.PEER:
                self.wrong.append(f"{key}: {os.path.basename(path)}: {contender.name}: {failure}")
            return
        runs["wall"].append(measured["wall"])
        runs["cpu"].append(measured["cpu"])
        runs["peak"] = max(runs["peak"], measured["peak"])

    def _difference(self, path, source, copy, contender, runs):
        """Byte for byte, and for the limit and ours block for block. In words, or an empty string."""
        if not contender.copies and not os.path.exists(copy):
            return ""
        found = self.programs.compare(path, copy)
        runs["allocated"] = max(runs["allocated"], found["allocated"])
        if not contender.copies:
            return ""
        if not found["same"]:
            return f"the copy differs at {found['different_at']}"
        if contender.group == who.PEER:
            return ""
        if found["extra"] != 0:
            return f"{found['extra']} bytes of holes became data"
        if found["missing"] != 0 and not contender.detects:
            return f"{found['missing']} bytes of data became holes"
        times, more = ALLOCATION_SLACK
        most = source["content" if contender.detects else "allocated"] * times + more
        return f"{found['allocated']} bytes are allocated" if found["allocated"] > most else ""

    # Measurements that noise does not affect

    def _traces(self, place):
        """System calls of one more section, from two images that differ in nothing else; bytes copied of a big one."""
        made = []
        for count in self.traced_sections:
            made.append(os.path.join(place, f"traced-{count}"))
            self.programs.make_image(made[-1], 8192 * count, count, 4096)
            os.chmod(made[-1], 0o644)
        big = os.path.join(place, "traced-big")
        self.programs.make_image(big, "64M", 1, "64M")
        os.chmod(big, 0o644)
        for contender in self.everyone:
            if not contender.copies or contender.only == [images.ZEROS] or self.quick and contender.group == who.PEER:
                continue
            say(f"traces {contender.name}")
            try:
                contender.enter(place)
                try:
                    few, many, one = (self._trace(contender, place, image) for image in (*made, big))
                finally:
                    contender.leave()
            except (Failed, subprocess.TimeoutExpired) as failure:
                self.skip(f"system calls of {contender.name}", str(failure))
                if contender.group != who.PEER:
                    self.wrong.append(f"system calls of {contender.name}: {failure}")
                continue
            rest = many.less(few)
            sections = self.traced_sections[1] - self.traced_sections[0]
            self.results["traces"][contender.name] = {
                "group": contender.group, "route": contender.route,
                "calls": rest.total() / sections,
                "by name": {name: round(count / sections, 3) for name, count in rest.calls.most_common()
                            if count / sections >= 0.02},
                "copied": rest.copied / (4096 * sections),
                "big copied": one.copied / (64 << 20),
                "big calls": one.total() / 64,
            }
        for path in (*made, big):
            os.unlink(path)

    @staticmethod
    def _trace(contender, place, image):
        job = contender.prepare(place, image)
        try:
            return trace.trace(place, job.command, job.pids)
        finally:
            job.done()

    def _contests(self, place):
        contests = self.results["contests"]
        path = os.path.join(place, "walked")
        self.programs.make_image(path, 8192 * 1024, 1024, 4096)
        say("contests within one process")
        contests["in-data"] = self.programs.contest("in-data", path)
        contests["walk"] = self.programs.contest("walk", path)
        for buffer, block in (("32K", "4K"), ("64K", "64K"), ("1M", "64K")):
            contests[f"zeros, {block} blocks of {buffer}"] = self.programs.contest("zero-check", buffer, block)
        os.unlink(path)


def file_system(place):
    """Of what kind the one is that a directory is on, and its options."""
    kind, options = output("findmnt", "-n", "-o", "FSTYPE,OPTIONS", "-T", place).split()
    return kind, options.split(",")


def unmount(place):
    """Also when what was stopped in a hurry has yet to let go of it."""
    for _ in range(20):
        try:
            output("umount", place)
            return
        except Failed as failure:
            last = failure
        time.sleep(0.25)
    raise last


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3")


def free_memory():
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


def memory_of_run(allocated, cold):
    """What a run takes that was free before it: its copy, its source too where that is cold, and its processes."""
    # As large pages and as small ones, so that a quarter of what is available is left alone.
    return min(allocated * (9 if cold else 5) // 4 + MEMORY_OF_PROCESSES, free_memory() * 3 // 8)


def machine():
    found = {"kernel": platform.release(), "cores": os.cpu_count(), "memory": free_memory()}
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as lines:
        found["processor"] = next(line for line in lines if line.startswith("model name")).split(":", 1)[1].strip()
    versions = {}
    for name, command in {"libvirtd": ["libvirtd", "--version"], "nbdkit": ["nbdkit", "--version"],
                          "nbdcopy": ["nbdcopy", "--version"], "qemu-img": ["qemu-img", "--version"],
                          "cp": ["cp", "--version"], "rsync": ["rsync", "--version"], "tar": ["tar", "--version"],
                          "bsdtar": ["bsdtar", "--version"], "bmaptool": ["bmaptool", "--version"],
                          "cc": ["cc", "--version"]}.items():
        path = who.find(command[0])
        if path is not None:
            with contextlib.suppress(Failed):
                versions[name] = output(path, *command[1:]).strip().splitlines()[0]
    found["versions"] = versions
    return found

# SPDX-License-Identifier: MIT OR Apache-2.0
"""Who moves the images: the limit, this library, and its peers."""

import os
import shlex
import shutil
import signal
import subprocess
import time

from .images import ZEROS
from .programs import Failed, output

# The peers as Debian packages, each with the command that shows that it is there.
PACKAGES = ["libvirt-daemon:libvirtd", "libvirt-clients:virsh", "nbdkit:nbdkit", "libnbd-bin:nbdcopy",
            "qemu-utils:qemu-img", "rsync:rsync", "libarchive-tools:bsdtar", "bmap-tools:bmaptool", "tar:tar",
            "strace:strace", "e2fsprogs:mke2fs"]

LIMIT, OURS, PEER = "limit", "ours", "peer"
STREAM, FILE = "stream", "file"

NOBODY = 65534


def find(command):
    return shutil.which(command, path=os.environ["PATH"] + ":/usr/sbin:/sbin")


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(path, process, what):
    for _ in range(1000):
        if os.path.exists(path):
            return
        if process.poll() is not None:
            break
        time.sleep(0.01)
    stop(process)
    raise Failed(f"{what} did not start")


class Job:
    """One run: what to measure, whose CPU time counts too, where the copy will be, what to do afterwards.

    `measured` corrects what was measured, where the command itself knows better.
    """

    def __init__(self, command, copy, pids=(), done=None, measured=None):
        self.command = command
        self.copy = copy
        self.pids = pids
        self._done = done
        self._measured = measured

    def measured(self, found):
        if self._measured and not found["failure"]:
            self._measured(found)
        return found

    def done(self):
        if self._done:
            self._done()
        if os.path.exists(self.copy):
            os.unlink(self.copy)


class Contender:
    """`detects`: zeros that are stored become holes in the copy. `only`: the images that it is for, None for all."""

    commands = ()
    # Whether its output is the source's content.
    copies = True
    # Whether its copy takes memory, in the page cache.
    buffered = True
    # Images that it is spared, and why.
    spared = {}

    def __init__(self, name, group, route, detects=False, only=None):
        self.name = name
        self.group = group
        self.route = route
        self.detects = detects
        self.only = only

    def wants(self, image):
        return (self.only is None or image in self.only) and image not in self.spared

    def missing(self):
        """Why it cannot take part, or an empty string."""
        absent = [command for command in self.commands if find(command) is None]
        return f"no {', '.join(absent)}" if absent else ""

    def enter(self, place):
        """Before its first run in a directory."""

    def leave(self):
        """After its last run there."""

    def prepare(self, place, image):
        """What is not measured. Returns a Job."""
        raise NotImplementedError


class Program(Contender):
    """limit.c or ours.c."""

    def __init__(self, programs, name, group, route, program, way, detects=False, only=None):
        super().__init__(name, group, route, detects, only)
        self._command = [programs.path(program), way]

    def prepare(self, place, image):
        copy = os.path.join(place, "out", "copy")
        return Job([*self._command, image, copy], copy)


class Write(Program):
    """limit.c where it only writes."""

    copies = False


class Shell(Contender):
    """A command line, in which {image} and {copy} stand for these, {from} and {name} for the image, {to} for the directory."""

    def __init__(self, name, route, line, commands, detects=False, only=None):
        super().__init__(name, PEER, route, detects, only)
        self._line = line
        self.commands = commands

    def prepare(self, place, image):
        to = os.path.join(place, "out")
        directory, name = os.path.split(image)
        # A command that unpacks an archive gives the copy the image's name.
        copy = os.path.join(to, "copy" if "{copy}" in self._line else name)
        words = {"image": image, "copy": copy, "from": directory, "name": name, "to": to}
        line = self._line.format(**{key: shlex.quote(value) for key, value in words.items()})
        # The shell must wait for all of a pipeline, or their time is lost; it does.
        return Job(["bash", "-o", "pipefail", "-c", line], copy)


class Rsync(Shell):
    """rsync makes holes, but does not look for them."""

    spared = {"eight": "rsync reads every hole: 20 GiB", "tebibyte": "rsync reads every hole: 1 TiB"}


class Bmaptool(Contender):
    """bmaptool with a map that was made before, as one comes with an image."""

    commands = ("bmaptool",)

    def prepare(self, place, image):
        copy = os.path.join(place, "out", "copy")
        bmap = os.path.join(place, "bmap")
        output("bmaptool", "create", "-o", bmap, image)
        return Job(["bmaptool", "copy", "--bmap", bmap, image, copy], copy, done=lambda: os.unlink(bmap))


class Nbd(Contender):
    """nbdkit with its file plugin at one end of a Unix socket, nbdcopy at the other."""

    commands = ("nbdkit", "nbdcopy")

    def __init__(self, name, upload, options=(), only=None):
        super().__init__(name, PEER, STREAM, True, only)
        self._upload = upload
        self._options = options

    def prepare(self, place, image):
        copy = os.path.join(place, "out", "copy")
        socket = os.path.join(place, "nbd.sock")
        served = copy if self._upload else image
        if self._upload:
            with open(copy, "wb") as file:
                file.truncate(os.path.getsize(image))
        server = subprocess.Popen(["nbdkit", "-f", "-U", socket, *([] if self._upload else ["-r"]), "file", served],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(socket, server, "nbdkit")
        address = f"nbd+unix:///?socket={socket}"
        if self._upload:
            command = ["nbdcopy", "--destination-is-zero", *self._options, image, address]
        else:
            command = ["nbdcopy", *self._options, address, copy]

        def done():
            stop(server)
            if os.path.exists(socket):
                os.unlink(socket)
        return Job(command, copy, pids=[server.pid], done=done)


class Virsh(Contender):
    """virsh with a libvirtd of its own, in session mode: nothing of the system's libvirt is touched."""

    commands = ("virsh", "libvirtd")

    def __init__(self, name, upload):
        super().__init__(name, PEER, STREAM)
        self._upload = upload
        self._known = set()

    def missing(self):
        return super().missing() or ("no setpriv" if os.geteuid() == 0 and find("setpriv") is None else "")

    def _as_user(self, *command):
        words = ["env", f"HOME={self._home}", f"XDG_RUNTIME_DIR={self._home}"]
        if os.geteuid() == 0:
            # A libvirtd of root's is always the system's.
            words += ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        return [*words, *command]

    def _virsh(self, *words):
        return self._as_user("virsh", "-q", "-c", "storage:///session", *words)

    def enter(self, place):
        self._home = os.path.join(place, f"{self.name.replace(' ', '-')}.home")
        self._pool = os.path.join(self._home, "pool")
        self._known.clear()
        os.makedirs(self._pool, exist_ok=True)
        if os.geteuid() == 0:
            for directory in (self._home, self._pool):
                os.chown(directory, NOBODY, NOBODY)
        self._daemon = subprocess.Popen(self._as_user(find("libvirtd")), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(os.path.join(self._home, "libvirt", "libvirt-sock"), self._daemon, "libvirtd")
        for words in (["pool-define-as", "bench", "dir", "--target", self._pool], ["pool-start", "bench"]):
            output(*self._virsh(*words))

    def leave(self):
        stop(self._daemon)
        shutil.rmtree(self._home, ignore_errors=True)

    def prepare(self, place, image):
        # env and setpriv have replaced themselves by it.
        pids = [self._daemon.pid]
        if self._upload:
            output(*self._virsh("vol-create-as", "bench", "copy", str(os.path.getsize(image)), "--allocation", "0"))
            command = self._virsh("vol-upload", "--sparse", "--pool", "bench", "copy", image)
            copy = os.path.join(self._pool, "copy")
            return Job(command, copy, pids, lambda: output(*self._virsh("vol-delete", "--pool", "bench", "copy")))
        name = os.path.basename(image)
        if name not in self._known:
            os.link(image, os.path.join(self._pool, name))
            output(*self._virsh("pool-refresh", "bench"))
            self._known.add(name)
        copy = os.path.join(place, "out", "copy")
        return Job(self._virsh("vol-download", "--sparse", "--pool", "bench", name, copy), copy, pids)


# Names that the report speaks of.
ZERO_COPY, READ_WRITE, LOOP = "limit: zero-copy", "limit: read/write", "limit: loop"
WRITE = "limit: only the write"
LIMIT_FILE, LIMIT_SPLICE = "limit: copy_file_range", "limit: splice"
LIMIT_DETECT, LIMIT_FILE_DETECT = "limit: zero detection", "limit: file, zero detection"
WIRE, STREAM_ENDS, CALLBACKS = "ours: wire", "ours: stream", "ours: callbacks"
OURS_FILE = "ours: file"
WIRE_DETECT, STREAM_DETECT = "ours: wire, zero detection", "ours: stream, zero detection"
FILE_DETECT = "ours: file, zero detection"
NBD_UP, NBD_DOWN = "nbdcopy to nbdkit", "nbdcopy from nbdkit"
VIRSH_UP, VIRSH_DOWN = "virsh vol-upload", "virsh vol-download"
CP = "cp"


# Peers that goals are set against; the others take part in fewer rounds.
NAMED = {NBD_UP, NBD_DOWN, VIRSH_UP, VIRSH_DOWN, CP}
PLAIN = ["one", "eight", "many"]


def everyone(programs):
    """All contenders, in the order of the tables."""
    def program(name, group, route, way, detects=False, only=None):
        return Program(programs, name, group, route, group, way, detects, [ZEROS] if detects else only)

    return [
        program(ZERO_COPY, LIMIT, STREAM, "zero-copy"),
        program(READ_WRITE, LIMIT, STREAM, "read-write", only=PLAIN),
        program(LOOP, LIMIT, STREAM, "loop", only=PLAIN),
        program(LIMIT_DETECT, LIMIT, STREAM, "detect", True),
        program(WIRE, OURS, STREAM, "wire"),
        program(STREAM_ENDS, OURS, STREAM, "stream", only=PLAIN),
        program(CALLBACKS, OURS, STREAM, "callbacks", only=PLAIN),
        program(WIRE_DETECT, OURS, STREAM, "wire-detect", True),
        program(STREAM_DETECT, OURS, STREAM, "stream-detect", True),
        Nbd(NBD_UP, True),
        Nbd(NBD_DOWN, False),
        Nbd(NBD_UP + ", -S 0", True, ["-S", "0"], ["many"]),
        Virsh(VIRSH_UP, True),
        Virsh(VIRSH_DOWN, False),
        Shell("bsdtar to bsdtar", STREAM, "bsdtar -cf - -C {from} {name} | bsdtar -xSf - -C {to}", ("bsdtar",)),
        Shell("tar -S to tar", STREAM, "tar -cSf - -C {from} {name} | tar -xSf - -C {to}", ("tar",)),
        Rsync("rsync -S", STREAM, "rsync -S {image} {copy}", ("rsync",), True),
        Write(programs, WRITE, LIMIT, STREAM, LIMIT, "write"),
        program(LIMIT_FILE, LIMIT, FILE, "file"),
        program(LIMIT_SPLICE, LIMIT, FILE, "file-splice"),
        program(LIMIT_FILE_DETECT, LIMIT, FILE, "file-detect", True),
        program(OURS_FILE, OURS, FILE, "file"),
        program(FILE_DETECT, OURS, FILE, "file-detect", True),
        Shell(CP, FILE, "cp --sparse=auto {image} {copy}", ("cp",)),
        Shell("cp --sparse=always", FILE, "cp --sparse=always {image} {copy}", ("cp",), True, [ZEROS]),
        Shell("nbdcopy", FILE, "nbdcopy {image} {copy}", ("nbdcopy",), True),
        Shell("qemu-img convert", FILE, "qemu-img convert -f raw -O raw {image} {copy}", ("qemu-img",), True),
        Bmaptool("bmaptool", PEER, FILE),
    ]

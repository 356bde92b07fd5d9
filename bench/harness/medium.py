# SPDX-License-Identifier: MIT OR Apache-2.0
"""Copies to the medium: a run ends when the data is there, not in the page cache."""

import json
import os
import shlex
import subprocess

from . import contenders as who
from .programs import output

DURABLE, DIRECT_COLD, READS = "to the medium, source cached", "to the medium, source cold", "cold reads"
PLACES = [DURABLE, DIRECT_COLD, READS]

# The defaults of the library.
DEPTH, REQUEST = 16, "512k"
# Of reads of clusters: a request is never longer than a section.
CLUSTER = "64k"

WHOLE, CLUSTERS64 = "whole", "clusters64"
IMAGES = {
    WHOLE: ("1 GiB in one section", ["1G", 1, "1G"]),
    "many": ("1 GiB with 512 MiB in 131,072 sections", ["1G", 131072, "4K"]),
    CLUSTERS64: ("1 GiB with 512 MiB in 8,192 sections of 64 KiB", ["1G", 8192, "64K"]),
    "filesystem": ("an ext4 file system of 1 GiB with real files", ["1G", 192 << 20]),
}

# The same, small.
QUICK = {
    WHOLE: ("64 MiB in one section", ["64M", 1, "64M"]),
    "many": ("64 MiB with 32 MiB in 8,192 sections", ["64M", 8192, "4K"]),
    CLUSTERS64: ("64 MiB with 32 MiB in 512 sections of 64 KiB", ["64M", 512, "64K"]),
    "filesystem": ("an ext4 file system of 64 MiB with real files", ["64M", 16 << 20]),
}

DIRECT, BUFFERED = "ours: copy --direct=auto --sync", "ours: copy --sync"
ALWAYS = "ours: copy --direct=always --sync"
WIRE_DIRECT = "ours: send | recv --direct=auto --sync"
WIRE_BUFFERED = "ours: send | recv --sync"
# As --sync was before it began writeback early: nothing is on its way to the disk until all is received.
WIRE_FSYNC = "ours: send | recv, then fsync"
SOCKET_DIRECT = "ours: send --exec='recv --direct=auto --sync'"
SOCKET_BUFFERED = "ours: send --exec='recv --sync'"
CP, DD, QEMU, NBD = "cp, fsync", "dd oflag=direct bs=4M", "qemu-img -t none -W -m 16", "nbdcopy to nbdkit cache=none"
QEMU_COLD = "qemu-img -t none -T none -W -m 16"
FIO, FIO_ALLOCATED = "limit: fio", "limit: fio, preallocated"
READ, READ_DIRECT = "ours: buffered", "ours: O_DIRECT"
READ_PLAIN, FIO_READ = "limit: pread, no look-ahead", "limit: fio"

MIB = 1 << 20
LEFT_GOAL, PEAK_GOAL = 8 * MIB, 16 * MIB


class Command(who.Shell):
    """A command line, in which {tool} stands for the command of this library too."""

    def __init__(self, programs, name, group, line, commands=("bash",), only=None, buffered=False):
        tool = shlex.quote(os.path.join(programs.built, "tools", "sparsestream"))
        super().__init__(name, who.FILE, line.replace("{tool}", tool), commands, only=only)
        self.group = group
        self.buffered = buffered


class Fio(who.Contender):
    """fio with the library's depth and size of a request: the speed of the disk. Its own start does not count."""

    commands = ("fio",)
    copies = False
    buffered = False

    def __init__(self, name, write, allocated=False, only=None, size=REQUEST):
        super().__init__(name, who.LIMIT, who.FILE, only=only)
        self._write = write
        self._allocated = allocated
        self._size = size

    def prepare(self, place, image):
        copy = os.path.join(place, "out", "copy")
        report = os.path.join(place, "fio.json")
        length = data_of(image)
        line = ["fio", "--name=limit", "--ioengine=io_uring", "--direct=1", f"--iodepth={DEPTH}", f"--bs={self._size}",
                "--thread", "--output-format=json", f"--output={report}"]
        if self._write:
            line += [f"--filename={copy}", "--rw=write", f"--size={length}", "--end_fsync=1",
                     f"--fallocate={'native' if self._allocated else 'truncate'}"]
        else:
            # A file of as much data, all of it allocated, read at random.
            whole = os.path.join(place, "fio.data")
            if not os.path.exists(whole):
                output("dd", "if=/dev/urandom", f"of={whole}", "bs=1M", f"count={length // MIB}", "conv=fsync")
            line += [f"--filename={whole}", "--rw=randread", "--norandommap=0", f"--size={length}"]

        def measured(found):
            with open(report, encoding="utf-8") as file:
                job = json.load(file)["jobs"][0]
            seconds = job["job_runtime"] / 1000
            found["wall"] = round(seconds * 1e9)
            found["cpu"] = round((job["usr_cpu"] + job["sys_cpu"]) / 100 * seconds * 1e9)
            os.unlink(report)
        return who.Job(line, copy, measured=measured)


class Nbdkit(who.Contender):
    """nbdkit that leaves nothing in the page cache, at the other end of a Unix socket."""

    commands = ("nbdkit", "nbdcopy")
    buffered = False

    def prepare(self, place, image):
        copy = os.path.join(place, "out", "copy")
        socket = os.path.join(place, "nbd.sock")
        with open(copy, "wb") as file:
            file.truncate(os.path.getsize(image))
        server = subprocess.Popen(["nbdkit", "-f", "-U", socket, "file", copy, "cache=none"], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        who.wait_for(socket, server, "nbdkit")

        def done():
            who.stop(server)
            if os.path.exists(socket):
                os.unlink(socket)
        command = ["nbdcopy", "--flush", "--destination-is-zero", image, f"nbd+unix:///?socket={socket}"]
        return who.Job(command, copy, pids=[server.pid], done=done)


def data_of(image):
    """Bytes of data, a multiple of a MiB."""
    return max(os.stat(image).st_blocks * 512 // MIB, 1) * MIB


def durable(programs):
    """Who takes part where the source is in the page cache."""
    def ours(name, line, only=None, buffered=False):
        return Command(programs, name, who.OURS, line, only=only, buffered=buffered)

    return [
        ours(DIRECT, "{tool} copy --direct=auto --sync {image} {copy}"),
        ours(BUFFERED, "{tool} copy --sync {image} {copy}", buffered=True),
        ours(WIRE_DIRECT, "{tool} send --direct=auto {image} | {tool} recv --direct=auto --sync {copy}", [WHOLE]),
        ours(WIRE_BUFFERED, "{tool} send {image} | {tool} recv --sync {copy}", [WHOLE], True),
        ours(WIRE_FSYNC, "{tool} send {image} | {tool} recv {copy} && sync {copy}", [WHOLE], True),
        # Over a local socket, and with an answer of the receiver.
        ours(SOCKET_DIRECT, '{tool} send --direct=auto --exec="{tool} recv --direct=auto --sync {copy}" {image}', [WHOLE]),
        ours(SOCKET_BUFFERED, '{tool} send --exec="{tool} recv --sync {copy}" {image}', [WHOLE], True),
        Command(programs, QEMU, who.PEER, "qemu-img convert -f raw -O raw -t none -W -m 16 {image} {copy}", ("qemu-img",)),
        Command(programs, CP, who.PEER, "cp --sparse=auto {image} {copy} && sync {copy}", ("cp",), buffered=True),
        # It reads holes, and writes them.
        Command(programs, DD, who.PEER, "dd if={image} of={copy} oflag=direct bs=4M conv=fsync", ("dd",), [WHOLE]),
        Nbdkit(NBD, who.PEER, who.STREAM, only=[WHOLE, CLUSTERS64]),
        Fio(FIO, True, only=[WHOLE]),
        Fio(FIO_ALLOCATED, True, allocated=True, only=[WHOLE]),
    ]


def cold(programs):
    """Who takes part where the source is read from the medium."""
    def ours(name, line, only=None, buffered=False):
        return Command(programs, name, who.OURS, line, only=only, buffered=buffered)

    return [
        ours(ALWAYS, "{tool} copy --direct=always --sync {image} {copy}"),
        ours(BUFFERED, "{tool} copy --sync {image} {copy}", buffered=True),
        Command(programs, QEMU_COLD, who.PEER, "qemu-img convert -f raw -O raw -t none -T none -W -m 16 {image} {copy}",
                ("qemu-img",)),
        Command(programs, CP, who.PEER, "cp --sparse=auto {image} {copy} && sync {copy}", ("cp",), buffered=True),
    ]


def reads(programs):
    """Who only reads."""
    def program(name, group, program, way):
        return who.Write(programs, name, group, who.FILE, program, way, only=[CLUSTERS64])

    return [
        program(READ_DIRECT, who.OURS, "ours", "drop-direct"),
        program(READ, who.OURS, "ours", "drop"),
        program(READ_PLAIN, who.LIMIT, "limit", "read"),
        Fio(FIO_READ, False, only=[CLUSTERS64], size=CLUSTER),
    ]


def pages_left(paths):
    """Bytes of these files that are in the page cache."""
    if who.find("fincore") is None:
        return 0
    found = output("fincore", "--bytes", "--noheadings", "--output", "RES", *(path for path in paths if os.path.exists(path)))
    return sum(int(line) for line in found.split())


def goals(cell_of, goal):
    """The bounds: `cell_of(place)` gives cells by image; `goal(what, measured, bound, least)` takes one."""
    for name, cell in cell_of(DURABLE).items():
        if name == WHOLE:
            goal(f"{WIRE_BUFFERED}, {name}: wall to {WIRE_FSYNC}", cell.ratio(WIRE_BUFFERED, "wall", WIRE_FSYNC), 0.85)
            for wire in (SOCKET_DIRECT, WIRE_DIRECT):
                goal(f"{wire}, {name}: wall to {WIRE_FSYNC}", cell.ratio(wire, "wall", WIRE_FSYNC), 0.75)
                goal(f"{wire}, {name}: CPU to {WIRE_FSYNC}", cell.ratio(wire, "cpu", WIRE_FSYNC), 0.5)
                goal(f"{wire}, {name}: wall to {DIRECT}", cell.ratio(wire, "wall", DIRECT), 1.1)
                speed = cell.ratio(FIO, "wall", wire)
                goal(f"{wire}, {name}: speed to fio, whose file is not preallocated", speed, 0.85, True)
        goal(f"{DIRECT}, {name}: wall to {QEMU}", cell.ratio(DIRECT, "wall", QEMU), 1.0)
        goal(f"{DIRECT}, {name}: CPU to {QEMU}", cell.ratio(DIRECT, "cpu", QEMU), 0.8)
        goal(f"{DIRECT}, {name}: page cache left, MiB", cell.left(DIRECT), LEFT_GOAL / MIB)
        goal(f"{DIRECT}, {name}: peak memory, MiB", cell.peak(DIRECT), PEAK_GOAL / MIB)
    for name, cell in cell_of(DIRECT_COLD).items():
        goal(f"{ALWAYS}, {name}, cold: wall to {QEMU_COLD}", cell.ratio(ALWAYS, "wall", QEMU_COLD), 1.0)
        goal(f"{ALWAYS}, {name}, cold: CPU to {QEMU_COLD}", cell.ratio(ALWAYS, "cpu", QEMU_COLD), 0.8)
        goal(f"{ALWAYS}, {name}, cold: CPU to {BUFFERED}", cell.ratio(ALWAYS, "cpu", BUFFERED), 0.5)
        goal(f"{ALWAYS}, {name}, cold: page cache left, MiB", cell.left(ALWAYS), LEFT_GOAL / MIB)
        goal(f"{ALWAYS}, {name}, cold: peak memory, MiB", cell.peak(ALWAYS), PEAK_GOAL / MIB)
    for name, cell in cell_of(READS).items():
        speed = cell.ratio(READ_PLAIN, "wall", READ_DIRECT)
        goal(f"reads with O_DIRECT, {name}: speed to buffered reads without look-ahead", speed, 2, True)
        goal(f"reads with O_DIRECT, {name}: speed to fio", cell.ratio(FIO_READ, "wall", READ_DIRECT), 0.85, True)


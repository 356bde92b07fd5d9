# SPDX-License-Identifier: MIT OR Apache-2.0
"""Counts system calls, and the bytes that go through them, with strace."""

import collections
import os
import re
import signal
import subprocess
import time

from .programs import Failed

# System calls that move bytes between the kernel and a program's memory, and those that move them within the kernel.
COPYING = {"read", "pread64", "readv", "preadv", "preadv2", "recvfrom", "recvmsg",
           "write", "pwrite64", "writev", "pwritev", "pwritev2", "sendto", "sendmsg"}
PASSING = {"sendfile", "splice", "copy_file_range"}

CALL = re.compile(r"^\d+ +(?:<\.\.\. )?([a-z0-9_]+)(\(| resumed>)")
RESULT = re.compile(r"= (-?\d+)(?: [A-Z<(].*)?$")


class Trace:
    """What was called: counts by name, and bytes copied and passed on."""

    def __init__(self):
        self.calls = collections.Counter()
        self.copied = 0
        self.passed = 0

    def read(self, path):
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                call = CALL.match(line)
                if call is None:
                    continue
                name = call[1]
                if call[2] == "(":
                    self.calls[name] += 1
                if name in COPYING or name in PASSING:
                    result = RESULT.search(line)
                    if result is not None and int(result[1]) > 0:
                        if name in COPYING:
                            self.copied += int(result[1])
                        else:
                            self.passed += int(result[1])

    def total(self):
        return sum(self.calls.values())

    def less(self, other):
        """What is in this one beyond the other."""
        rest = Trace()
        rest.calls = collections.Counter(self.calls)
        rest.calls.subtract(other.calls)
        rest.copied = self.copied - other.copied
        rest.passed = self.passed - other.passed
        return rest


def attach(pid, log):
    """Traces a running process, with all its threads, until the tracer is stopped."""
    process = subprocess.Popen(["strace", "-f", "-s", "0", "-o", log, "-p", str(pid)], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "attached" in line:
            return process
    raise Failed(f"strace cannot attach to {pid}")


def trace(directory, command, pids=()):
    """Runs a command under strace, and the daemons that work for it too."""
    logs = [os.path.join(directory, f"trace-{number}") for number in range(len(pids) + 1)]
    daemons = [attach(pid, log) for pid, log in zip(pids, logs[1:])]
    try:
        done = subprocess.run(["strace", "-f", "-s", "0", "-o", logs[0], *command], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=300, check=False)
        # A daemon's work after the last answer is counted too.
        time.sleep(0.2 if daemons else 0)
    finally:
        for daemon in daemons:
            daemon.send_signal(signal.SIGINT)
            daemon.communicate()
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: status {done.returncode}: {done.stderr.strip()[-300:]}")
    found = Trace()
    for log in logs:
        if os.path.exists(log):
            found.read(log)
            os.unlink(log)
    return found

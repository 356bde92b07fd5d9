# SPDX-License-Identifier: MIT OR Apache-2.0
"""Builds the library and the C programs of the benchmark, and runs them."""

import json
import os
import subprocess

BENCH = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOT = os.path.dirname(BENCH)
LIBRARY = os.path.join(ROOT, "build", "release")
PROGRAMS = os.path.join(ROOT, "build", "bench")

SOURCES = {
    "limit": ["limit.c", "common.c", "frames.c"],
    "ours": ["ours.c", "common.c", "frames.c", "query.c"],
    "image": ["image.c", "common.c"],
    "measure": ["measure.c", "common.c"],
}
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]


class Failed(Exception):
    """Something that a benchmark needs did not work."""


def output(*command, **options):
    """What a command prints."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, **options)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class Programs:
    """The C programs, compiled against a library in its build directory."""

    def __init__(self, library=None):
        if library is None:
            # Says itself what goes wrong.
            if subprocess.run(["make", "--no-print-directory", "-C", ROOT, "build"],
                              stdout=subprocess.DEVNULL, check=False).returncode != 0:
                raise Failed("make build failed")
            library = LIBRARY
        self.built = os.path.abspath(library)
        os.makedirs(PROGRAMS, exist_ok=True)
        environment = {**os.environ, "PKG_CONFIG_PATH": os.path.join(self.built, "pkgconfig")}
        flags = output("pkg-config", "--cflags", "--libs", "sparsestream-uninstalled", env=environment).split()
        flags.append(f"-Wl,-rpath,{self.built}")
        for name, sources in SOURCES.items():
            command = [self._compiler(), *FLAGS, "-o", self.path(name),
                       *(os.path.join(BENCH, source) for source in sources)]
            output(*command, *(flags if name == "ours" else []))

    @staticmethod
    def _compiler():
        return os.environ.get("CC", "cc")

    @staticmethod
    def path(name):
        return os.path.join(PROGRAMS, name)

    def make_image(self, path, *specification):
        output(self.path("image"), "make", path, *(str(word) for word in specification))

    def map(self, path):
        return json.loads(output(self.path("image"), "map", path))

    def compare(self, source, copy):
        """The differences of a copy, as `image compare` reports them."""
        done = subprocess.run([self.path("image"), "compare", source, copy], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, check=False)
        if not done.stdout:
            raise Failed(f"image compare: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def measure(self, result, command, pids=(), seconds=600, memory=0):
        """Wall, CPU and user CPU time in nanoseconds, peak memory in bytes, and the words of a failure, of a command.

        That many bytes of memory are touched first; see measure.c.
        """
        prefix = [self.path("measure"), "-t", str(seconds), "-m", str(memory)]
        for pid in pids:
            prefix += ["-p", str(pid)]
        if os.path.exists(result):
            os.unlink(result)
        done = subprocess.run([*prefix, result, *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, errors="replace", check=False)
        try:
            with open(result, encoding="utf-8") as file:
                measured = json.load(file)
        except (OSError, ValueError):
            raise Failed(f"measure: {done.stderr.strip()}") from None
        measured["failure"] = ""
        if measured["status"] != 0:
            words = done.stderr.strip().splitlines()
            measured["failure"] = f"status {measured['status']}" + (f": {words[-1]}" if words else "")
        return measured

    def contest(self, *arguments):
        """One of the contests that `ours` holds within itself."""
        return json.loads(output(self.path("ours"), *arguments))

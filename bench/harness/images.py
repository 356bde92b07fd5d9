# SPDX-License-Identifier: MIT OR Apache-2.0
"""The images that are moved."""

import contextlib
import os
import shutil

from .programs import Failed, output

FILESYSTEM = "filesystem"
ZEROS = "zeros"
# Sections of a few clusters of an image format.
CLUSTERS = "clusters"
# As "many", but so that a disk can read it in a second.
FRAGMENTS = "fragments"

# Name: what it is, and size, sections, length of each, and one of how many pieces is not zeros.
FULL = {
    "one": ("512 MiB in one section", ["512M", 1, "512M"]),
    "eight": ("20 GiB with 512 MiB in 8 sections", ["20G", 8, "64M"]),
    "many": ("1 GiB with 512 MiB in 131,072 sections", ["1G", 131072, "4K"]),
    "tebibyte": ("1 TiB with 100 MiB in 100 sections", ["1T", 100, "1M"]),
    ZEROS: ("256 MiB allocated, 75 % of it zeros", ["256M", 1, "256M", 4]),
    FILESYSTEM: ("an ext4 file system of 1 GiB with real files", ["1G", 192 << 20]),
    CLUSTERS: ("1 GiB with 128 MiB in 512 sections", ["1G", 512, "256K"]),
    FRAGMENTS: ("128 MiB with 64 MiB in 16,384 sections", ["128M", 16384, "4K"]),
}
QUICK = {
    "one": ("64 MiB in one section", ["64M", 1, "64M"]),
    "eight": ("20 GiB with 64 MiB in 8 sections", ["20G", 8, "8M"]),
    "many": ("64 MiB with 32 MiB in 8,192 sections", ["64M", 8192, "4K"]),
    "tebibyte": ("64 GiB with 16 MiB in 16 sections", ["64G", 16, "1M"]),
    ZEROS: ("64 MiB allocated, 75 % of it zeros", ["64M", 1, "64M", 4]),
    FILESYSTEM: ("an ext4 file system of 256 MiB with real files", ["256M", 32 << 20]),
}

# Where real files are taken from: much of it small, some of it large.
TREES = ["/usr/include", "/usr/share", "/usr/lib"]


def collect(target, most):
    """Copies files of the system, in the order of their names, until there are this many bytes."""
    total = 0
    for tree in TREES:
        for directory, directories, files in os.walk(tree):
            directories.sort()
            for name in sorted(files):
                path = os.path.join(directory, name)
                if os.path.islink(path) or not os.path.isfile(path) or not os.access(path, os.R_OK):
                    continue
                size = os.path.getsize(path)
                if size > most // 8:
                    continue
                if total + size > most:
                    return
                place = os.path.join(target, os.path.relpath(directory, "/"))
                os.makedirs(place, exist_ok=True)
                shutil.copyfile(path, os.path.join(place, name))
                total += size


def make_filesystem(path, size, most):
    """An ext4 file system as a distribution's image builder makes it."""
    tree = path + ".tree"
    try:
        collect(tree, most)
        output("mke2fs", "-q", "-t", "ext4", "-d", tree, path + ".made", size)
        # Without preallocated blocks: whether the map calls those data depends on the page cache.
        output("cp", "--sparse=always", path + ".made", path)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + ".made")


def make(programs, directory, name, specification):
    """Makes an image and returns its path."""
    path = os.path.join(directory, name)
    if name != FILESYSTEM:
        programs.make_image(path, *specification)
    elif shutil.which("mke2fs", path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None:
        raise Failed("no mke2fs")
    else:
        make_filesystem(path, *specification)
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.close(file)
    os.chmod(path, 0o644)
    return path

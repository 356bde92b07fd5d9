#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""The sparse tree digest, written from docs/digest.md alone, with a BLAKE3 of its own.

    reference.py blake3 FILE        the BLAKE3 hash of a file
    reference.py digest FILE...     the digest of each file
    reference.py check              reads streams from standard input, one a line:

        ROOT SECTION...     each SECTION is data:HEX, hole:LENGTH, keep:LENGTH, byte:HEX*COUNT or
                            count:SEED*COUNT (the bytes (SEED + index) % 251)

Lines that are empty or start with # are comments. `check` reports the first line whose ROOT is not
its digest, and otherwise how many there were.
"""

import struct
import sys

# BLAKE3, from its specification: https://github.com/BLAKE3-team/BLAKE3-specs

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
MASK = 0xFFFFFFFF


# The places of the words that each of the eight mixings of a round takes.
MIXINGS = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15), (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]


def schedule():
    """For each mixing of all seven rounds: its places, and the places of its two message words."""
    order = range(16)
    for _ in range(7):
        for index, places in enumerate(MIXINGS):
            yield *places, order[2 * index], order[2 * index + 1]
        order = [order[index] for index in PERMUTATION]


SCHEDULE = list(schedule())


def compress(cv, words, counter, length, flags):
    """The chaining value behind one block of 16 words."""
    v = [*cv, *IV[:4], counter & MASK, counter >> 32, length, flags]
    for a, b, c, d, x, y in SCHEDULE:
        va, vb, vc, vd = v[a], v[b], v[c], v[d]
        va = va + vb + words[x] & MASK
        vd ^= va
        vd = (vd >> 16 | vd << 16) & MASK
        vc = vc + vd & MASK
        vb ^= vc
        vb = (vb >> 12 | vb << 20) & MASK
        v[a] = va = va + vb + words[y] & MASK
        vd ^= va
        v[d] = vd = (vd >> 8 | vd << 24) & MASK
        v[c] = vc = vc + vd & MASK
        vb ^= vc
        v[b] = (vb >> 7 | vb << 25) & MASK
    return [v[index] ^ v[index + 8] for index in range(8)]


def chunk(data, counter, root):
    """The chaining value of a chunk of at most 1,024 bytes."""
    cv = IV
    starts = range(0, max(len(data), 1), 64)
    for start in starts:
        block = data[start:start + 64]
        flags = (CHUNK_START if start == 0 else 0) | (CHUNK_END | root if start == starts[-1] else 0)
        words = struct.unpack("<16I", block.ljust(64, b"\0"))
        cv = compress(cv, words, counter, len(block), flags)
    return cv


def subtree(data, counter, root):
    """The chaining value of a subtree whose first chunk has this number."""
    if len(data) <= 1024:
        return chunk(data, counter, root)
    # The left half is the largest power of two of chunks that leaves something to the right.
    left = 1024 << ((len(data) - 1) // 1024).bit_length() - 1
    words = subtree(data[:left], counter, 0) + subtree(data[left:], counter + left // 1024, 0)
    return compress(IV, words, 0, 64, PARENT | root)


def blake3(data):
    return struct.pack("<8I", *subtree(bytes(data), 0, ROOT))


# The digest.

BLOCK = 65536
TAG = b"libsparsestream digest v1, 65536"
DATA, ZEROS = 1, 2
hashes = {}


def block_hash(block):
    """Blocks come again in the tests, and this is slow."""
    if block not in hashes:
        hashes[block] = blake3(block)
    return hashes[block]


def digest(sections):
    """The digest of (kind, content) pairs: bytes for "data", a length for "hole" and "keep"."""
    content, kept, entries = bytearray(), [], []
    # Long runs of zero blocks are not held in memory: the content before `base` is in `entries`.
    base = 0

    def take_blocks(last):
        nonlocal base
        done = 0
        while len(content) - done >= BLOCK or last and done < len(content):
            block = bytes(content[done:done + BLOCK])
            entry = (DATA, len(block), block) if any(block) else (ZEROS, len(block), None)
            add(*entry)
            done += len(block)
        del content[:done]
        base += done

    def add(kind, count, block):
        if kind == ZEROS and entries and entries[-1][0] == ZEROS:
            entries[-1] = (ZEROS, entries[-1][1] + count, None)
        else:
            entries.append((kind, count, block))

    for kind, what in sections:
        if kind == "data":
            content += what
            take_blocks(False)
            continue
        at = base + len(content)
        if kind == "keep" and what:
            if kept and sum(kept[-1]) == at:
                kept[-1] = (kept[-1][0], kept[-1][1] + what)
            else:
                kept.append((at, what))
        edge = min(what, -len(content) % BLOCK)
        content += bytes(edge)
        take_blocks(False)
        whole = (what - edge) // BLOCK * BLOCK
        if whole:
            add(ZEROS, whole, None)
            base += whole
        content += bytes(what - edge - whole)
    length = base + len(content)
    take_blocks(True)

    link = bytes(32)
    for kind, count, block in entries:
        link = blake3(link + struct.pack("<QQ", kind, count) + (block_hash(block) if block else bytes(32)))
    kept_link = bytes(32)
    for offset, count in kept:
        kept_link = blake3(kept_link + struct.pack("<QQ", offset, count))
    return blake3(TAG + link + struct.pack("<Q", length) + kept_link)


def section(text):
    kind, _, what = text.partition(":")
    value, _, count = what.partition("*")
    if kind == "data":
        return "data", bytes.fromhex(what)
    if kind == "byte":
        return "data", bytes.fromhex(value) * int(count)
    if kind == "count":
        return "data", bytes((int(value) + index) % 251 for index in range(int(count)))
    if kind in ("hole", "keep"):
        return kind, int(what)
    raise ValueError(f"{text!r} is not a section")


def check(lines):
    count = 0
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        root, *sections = line.split()
        found = digest(map(section, sections)).hex()
        if found != root:
            sys.exit(f"line {number}: {found} instead of {root}: {line[:200].rstrip()}")
        count += 1
    print(count)


def main():
    command, *names = sys.argv[1:] or [""]
    if command == "check":
        check(sys.stdin)
    elif command in ("blake3", "digest") and names:
        for name in names:
            with open(name, "rb") as file:
                data = file.read()
            print((blake3(data) if command == "blake3" else digest([("data", data)])).hex())
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()

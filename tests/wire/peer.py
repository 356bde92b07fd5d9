#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Both ends of the wire, written from docs/wire-format.md and docs/digest.md alone.

    peer.py read FILE...                    reads what a sender wrote, one-way
    peer.py write SEED COUNT DIRECTORY      writes that many random streams, one-way, to DIRECTORY/NUMBER
    peer.py receive SEED COUNT DIRECTORY    receives COUNT streams, one a connection, on the listening socket that is
                                            standard input; holds the bytes of DIRECTORY/NUMBER, if there are any
    peer.py send SEED COUNT                 sends COUNT random streams on that socket, each of them twice in turn; each
                                            second one can be resumed, the others have kept sections

All of them print for each stream, in this order:

    file NAME
    data OFFSET BYTES-IN-HEX
    hole OFFSET LENGTH
    keep OFFSET LENGTH
    end LENGTH                  or    error REASON

and at the end how often something occurred, as lines of

    count KIND: NUMBER
"""
import collections
import importlib.util
import pathlib
import random
import socket
import struct
import sys

REFERENCE = pathlib.Path(__file__).resolve().parent.parent / "digest" / "reference.py"
spec = importlib.util.spec_from_file_location("reference", REFERENCE)
reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference)

HELLO, ACCEPT, BEGIN, DATA, HOLE, CHECKPOINT, ACK, KEEPALIVE, END, STATUS, ERROR, KEEP = range(1, 13)
ANSWERS, CHECKSUM, DIGEST, RESUME, KEEPS = 1, 2, 4, 8, 16
UNKNOWN = 2**64 - 1
LAST = 2**63 - 1
MAX_PAYLOAD = 4 << 20
MAX_BODY = 4096
NO_DIGEST = bytes(32)
OTHER_CONTENT, RESTART = 3, 1
ESTALE = 116

occurred = collections.Counter()


class Refused(Exception):
    """The bytes that came are not a stream of this format."""


def check(true, reason):
    if not true:
        raise Refused(reason)


def table(polynomial):
    values = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (polynomial if value & 1 else 0)
        values.append(value)
    return values


CRC32C = table(0x82F63B78)


def crc32c(data):
    value = 0xFFFFFFFF
    for byte in data:
        value = CRC32C[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


BODY = {  # type: least and most bytes of the body, and whether the value is used
    HELLO: (144, MAX_BODY, False),
    ACCEPT: (64, MAX_BODY, False),
    BEGIN: (0, 0, True),
    DATA: (1, MAX_PAYLOAD, False),
    HOLE: (0, 0, True),
    CHECKPOINT: (32, MAX_BODY, False),
    ACK: (0, 0, False),
    KEEPALIVE: (0, 0, False),
    END: (56, MAX_BODY, False),
    STATUS: (32, MAX_BODY, False),
    ERROR: (8, MAX_BODY, True),
    KEEP: (0, 0, True),
}


def frame(kind, offset, value=0, body=b"", checksum=True):
    head = struct.pack("<3sBIQQI", b"\xf5SP", kind, len(body), offset, value, crc32c(body) if body and checksum else 0)
    return head + struct.pack("<I", crc32c(head)) + body


class Frames:
    """The frames that come: type, offset, value, body, body checksum."""

    def __init__(self, read):
        self.read = read  # At most this many bytes; b"" at the end.

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.read(count - len(data))
            check(more, "cut off in a frame")
            data += more
        return data

    def next(self):
        """The next frame, or None at the end."""
        first = self.read(1)
        if not first:
            return None
        header = first + self.exactly(31)
        magic, kind, length, offset, value, body_crc, header_crc = struct.unpack("<3sBIQQII", header)
        check(magic == b"\xf5SP", "no magic")
        check(crc32c(header[:28]) == header_crc, "header checksum")
        if kind >= 128:
            check(length <= MAX_BODY, "body length")
        else:
            check(kind in BODY, "unknown type")
            least, most, valued = BODY[kind]
            check(least <= length <= most, "body length")
            check(valued or value == 0, "value")
            check(kind not in (HELLO, ACCEPT) or offset == 0, "offset")
            check(kind not in (HOLE, KEEP) or value > 0, "empty")
            extent = {DATA: length, HOLE: value, KEEP: value}.get(kind, 0)
            check(offset + extent <= LAST, "beyond every offset")
        check(length > 0 or body_crc == 0, "checksum of nothing")
        body = self.exactly(length)
        check(kind == DATA or crc32c(body) == body_crc, "body checksum")
        return kind, offset, value, body, body_crc

    def expect(self):
        """The next frame that is not to be ignored."""
        while True:
            got = self.next()
            check(got is not None, "cut off")
            if got[0] < 128 and got[0] != KEEPALIVE:
                check(got[0] != ERROR, "the other end failed: " + got[3][8:].decode(errors="replace"))
                return got


class Hello:
    def __init__(self, body):
        (self.version, self.least, self.max_payload, self.required, self.optional, self.length,
         self.source_size, self.source_offset, self.data_bytes, self.transfer_id, self.identity,
         self.base, self.keepalive) = struct.unpack("<HHIQQQQQQ16s32s32sI4x", body[:144])
        check(1 <= self.least <= self.version and self.least <= 1, "version")
        check(self.required & ~(ANSWERS | CHECKSUM | DIGEST | KEEPS) == 0, "features")
        check(not self.required & KEEPS or not self.optional & RESUME, "keep and resume")
        check(1 <= self.max_payload <= MAX_PAYLOAD, "payload")
        length = 0 if self.length == UNKNOWN else self.length
        check(self.source_offset + length <= LAST, "sizes")
        if self.source_size != UNKNOWN:
            check(self.source_offset + length <= self.source_size <= LAST, "sizes")
        if self.data_bytes != UNKNOWN:
            most = min(size for size in (self.length, self.source_size, LAST) if size != UNKNOWN)
            check(self.data_bytes <= most, "sizes")


def note_features(features):
    occurred["streams"] += 1
    for name, bit in (("two-way", ANSWERS), ("with checksums", CHECKSUM), ("with digest", DIGEST)):
        occurred[name] += features & bit != 0


def show(out, kind, at, what=None):
    occurred[kind] += 1
    if kind == "data":
        out.write(f"data {at} {what.hex()}\n")
    elif kind == "end":
        out.write(f"end {at}\n")
    else:
        out.write(f"{kind} {at} {what}\n")


def offered(hello, frames, answer, features, held, restart):
    """Offers to resume after the held bytes. Returns those that the stream resumes after."""
    resumable = held and hello.optional & RESUME and not hello.required & KEEPS
    check(resumable or not held or restart, "what is held cannot be resumed")
    if not resumable:
        held = b""
    features |= RESUME | DIGEST if held else 0
    proof = reference.digest([("data", held)]) if held else NO_DIGEST
    answer(frame(KEEPALIVE, 0))
    answer(frame(ACCEPT, 0, body=struct.pack("<HHIQQ32sI4x", 1, 0, 4096, features, len(held), proof, restart)))
    if held:
        kind, offset, reason, _, _ = frames.expect()
        check(kind == BEGIN, "no BEGIN")
        if (offset, reason) != (len(held), 0):
            check((offset, reason, restart) == (0, OTHER_CONTENT, RESTART), "BEGIN")
            held = b""
        occurred["resumed" if held else "restarted"] += 1
    return features, held


def receive(frames, out, answer=None, wants=0, held=b"", restart=0):
    """Receives a stream, and answers with `answer` if the sender waits for that."""
    first = frames.next()
    check(first is not None and first[0] == HELLO, "no HELLO")
    hello = Hello(first[3])
    features = hello.required
    if hello.required & ANSWERS:
        check(answer is not None, "no way back")
        features |= hello.optional & wants & (CHECKSUM | DIGEST)
        features, held = offered(hello, frames, answer, features, held, restart)
        hello.max_payload = min(hello.max_payload, 4096)
    note_features(features)
    sections = [("data", held)] if held else []

    def digest():
        return reference.digest(sections) if features & DIGEST else NO_DIGEST

    at = len(held)
    counts = {"data": 0, "hole": 0, "keep": 0}
    while True:
        got = frames.next()
        check(got is not None, "cut off before the end")
        kind, offset, value, body, body_crc = got
        if kind in (DATA, HOLE, KEEP, CHECKPOINT, END):
            check(offset == at, "offset")
        if kind in (DATA, HOLE, KEEP):
            name = {DATA: "data", HOLE: "hole", KEEP: "keep"}[kind]
            check(kind != KEEP or features & KEEPS, "nothing is kept here")
            what, length = (body, len(body)) if kind == DATA else (value, value)
            check(kind != DATA or len(body) <= hello.max_payload, "payload")
            check(kind != DATA or body_crc == (crc32c(body) if features & CHECKSUM else 0), "payload checksum")
            check(at + length <= hello.length, "beyond the length")
            show(out, name, at, what)
            sections.append((name, what))
            counts[name] += length
            at += length
            if answer and hello.required & ANSWERS:
                answer(frame(ACK, at))
        elif kind == CHECKPOINT:
            check(features & DIGEST and body[:32] == digest(), "digest")
            occurred["checkpoint"] += 1
        elif kind == END:
            check(hello.length in (UNKNOWN, at), "length")
            check(struct.unpack("<QQQ", body[:24]) == tuple(counts.values()), "counts")
            check(body[24:56] == digest(), "digest")
            if hello.required & ANSWERS:
                answer(frame(STATUS, at, body=digest()))
            else:
                check(frames.next() is None, "more after the end")
            show(out, "end", at)
            return
        elif kind == ERROR:
            raise Refused("the sender failed")
        else:
            check(kind == KEEPALIVE or kind >= 128, "out of place")


def random_sections(chance, resumable):
    for _ in range(chance.randrange(8)):
        name = chance.choice(("data", "hole") if resumable else ("data", "hole", "keep"))
        if name == "data":
            yield name, chance.randbytes(1 + chance.randrange(1500))
        else:
            yield name, 1 + chance.randrange(5000 if resumable else 1 << chance.randrange(58))


def divided(sections, offset):
    """The sections before an offset, and those behind it."""
    before, behind = [], []
    for name, what in sections:
        length = len(what) if name == "data" else what
        first = min(length, offset)
        offset -= first
        if first:
            before.append((name, what[:first] if name == "data" else first))
        if first < length:
            behind.append((name, what[first:] if name == "data" else length - first))
    check(offset == 0, "an offer beyond the end")
    return before, behind


def begin(write, sections, offer, proof, flags):
    """Answers an offer to resume. Returns the sections that are not sent, and those that are."""
    before, behind = divided(sections, offer)
    if reference.digest(before) == proof:
        write(frame(BEGIN, offer, 0))
        occurred["resumed"] += 1
        return before, behind
    if not flags & RESTART:
        write(frame(ERROR, 0, 0, struct.pack("<IBBH", ESTALE, 0, 0, 0)))
        raise Refused("the receiver holds something else")
    write(frame(BEGIN, 0, OTHER_CONTENT))
    occurred["restarted"] += 1
    return [], sections


def send(chance, write, out, features, frames=None, resumable=False):
    """Sends a random stream; with `frames` to a receiver that answers."""
    sections = list(random_sections(chance, resumable))
    required = features | (0 if resumable else KEEPS) | (ANSWERS if frames else 0)
    optional = (CHECKSUM | DIGEST) & ~required | (RESUME if resumable else 0) if frames else 0
    write(frame(HELLO, 0, body=struct.pack(
        "<HHIQQQQQQ16s32s32sI4x", chance.choice((1, 7)), 1, 4096, required, optional, UNKNOWN, UNKNOWN, 0, UNKNOWN,
        bytes(16), bytes(32), chance.randbytes(32), 0) + chance.randbytes(chance.randrange(9))))
    in_force, payload, sent = required, 4096, []
    if frames:
        kind, _, _, body, _ = frames.expect()
        check(kind == ACCEPT, "no ACCEPT")
        version, _, payload, in_force, offer, proof, flags = struct.unpack("<HHIQQ32sI4x", body[:64])
        check(version == 1 and required & ~in_force == 0 and payload >= 4096, "ACCEPT")
        check(offer == 0 or in_force & RESUME and in_force & DIGEST and optional & RESUME, "offer")
        if offer:
            sent, sections = begin(write, sections, offer, proof, flags)
    note_features(in_force)

    def digest():
        return reference.digest(sent) if in_force & DIGEST else NO_DIGEST

    at = sum(len(what) if name == "data" else what for name, what in sent)
    counts = {"data": 0, "hole": 0, "keep": 0}
    for name, what in sections:
        if name == "data":
            write(frame(DATA, at, body=what, checksum=in_force & CHECKSUM))
        else:
            write(frame(HOLE if name == "hole" else KEEP, at, what))
        show(out, name, at, what)
        length = len(what) if name == "data" else what
        sent.append((name, what))
        counts[name] += length
        at += length
        if chance.randrange(4) == 0:
            write(frame(KEEPALIVE, at))
        if chance.randrange(4) == 0:
            write(frame(128 + chance.randrange(128), chance.randrange(2**64), chance.randrange(2**64), chance.randbytes(chance.randrange(99))))
        if in_force & DIGEST and chance.randrange(8) == 0:
            write(frame(CHECKPOINT, at, body=digest()))
            occurred["checkpoint"] += 1
    write(frame(END, at, body=struct.pack("<QQQ", *counts.values()) + digest()))
    if frames:
        durable = 0
        while True:
            kind, offset, _, body, _ = frames.expect()
            if kind == STATUS:
                check(offset == at and body[:32] == digest(), "STATUS")
                break
            check(kind == ACK and durable <= offset <= at, "out of place")
            durable = offset
    show(out, "end", at)


def protected(out, name, run):
    out.write(f"file {name}\n")
    try:
        run()
    except (Refused, ConnectionError) as reason:
        out.write(f"error {reason}\n")
        occurred["error"] += 1


def held_in(path):
    return path.read_bytes() if path.exists() else b""


def serve(out, listener, command, seed, number, directory):
    """One stream over the next connection to standard input."""
    # Each stream is sent twice.
    chance = random.Random(seed + number // 2)
    features = chance.choice((0, CHECKSUM)) | chance.choice((0, 0, DIGEST))
    connection, _ = listener.accept()
    with connection:
        frames = Frames(connection.recv)
        if command == "receive":
            held, restart = held_in(directory / str(number)), chance.choice((0, RESTART))
            protected(out, number, lambda: receive(frames, out, connection.sendall, features, held, restart))
        else:
            protected(out, number, lambda: send(chance, connection.sendall, out, features, frames, number // 2 % 2 == 1))


def main():
    command, *arguments = sys.argv[1:] or [""]
    out = sys.stdout
    if command == "read":
        for name in arguments:
            with open(name, "rb") as file:
                protected(out, name, lambda: receive(Frames(file.read), out))
    elif command == "write" and len(arguments) == 3:
        seed, count, directory = int(arguments[0]), int(arguments[1]), pathlib.Path(arguments[2])
        for number in range(count):
            chance = random.Random(seed + number)
            features = chance.choice((0, CHECKSUM)) | chance.choice((0, 0, 0, 0, 0, DIGEST))
            with open(directory / str(number), "wb") as file:
                protected(out, number, lambda: send(chance, file.write, out, features))
    elif command in ("receive", "send") and len(arguments) >= 2:
        directory = pathlib.Path(arguments[2]) if command == "receive" else None
        with socket.socket(fileno=0) as listener:
            listener.setblocking(True)
            for number in range(int(arguments[1])):
                serve(out, listener, command, int(arguments[0]), number, directory)
    else:
        sys.exit(__doc__)
    for kind, number in sorted(occurred.items()):
        out.write(f"count {kind}: {number}\n")


if __name__ == "__main__":
    main()

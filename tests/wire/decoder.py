#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""A second decoder of the wire format, written from docs/wire-format.md alone.

decoder.py FILE... reads what a sender wrote, one-way, and prints for each file

    file NAME
    data OFFSET BYTES-IN-HEX
    hole OFFSET LENGTH
    end LENGTH                  or    error REASON
"""
import struct
import sys

HELLO, ACCEPT, BEGIN, DATA, HOLE, CHECKPOINT, ACK, KEEPALIVE, END, STATUS, ERROR = range(1, 12)
ANSWERS, CHECKSUM, DIGEST, RESUME = 1, 2, 4, 8
UNKNOWN = 2**64 - 1
LAST = 2**63 - 1
MAX_PAYLOAD = 4 << 20
MAX_BODY = 4096


class Refused(Exception):
    """What came is no stream of this format."""


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
CRC64 = table(0xC96C5795D7870F42)


def crc32c(data):
    value = 0xFFFFFFFF
    for byte in data:
        value = CRC32C[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


class Digest:
    """CRC-64/XZ, and the factor of a run of zeros by squaring."""

    def __init__(self):
        self.register = UNKNOWN

    def data(self, data):
        value = self.register
        for byte in data:
            value = CRC64[(value ^ byte) & 0xFF] ^ value >> 8
        self.register = value

    def hole(self, length):
        power = 1 << 63 - 8  # x^8, the lowest power in the highest bit
        while length:
            if length & 1:
                self.register = times(power, self.register)
            power = times(power, power)
            length >>= 1

    def value(self):
        return self.register ^ UNKNOWN


def times(a, b):
    product = 0
    for bit in range(63, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (0xC96C5795D7870F42 if b & 1 else 0)
    return product


BODY = {  # type: least and most bytes of the body, and whether the value is used
    HELLO: (112, MAX_BODY, False),
    ACCEPT: (40, MAX_BODY, False),
    BEGIN: (0, 0, True),
    DATA: (1, MAX_PAYLOAD, False),
    HOLE: (0, 0, True),
    CHECKPOINT: (0, 0, True),
    ACK: (0, 0, False),
    KEEPALIVE: (0, 0, False),
    END: (16, MAX_BODY, True),
    STATUS: (0, 0, True),
    ERROR: (8, MAX_BODY, True),
}


def frames(stream):
    """Every frame of a stream: type, offset, value, body, body checksum."""
    at = 0
    while at < len(stream):
        header = stream[at:at + 32]
        check(len(header) == 32, "cut off in a header")
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
            extent = {DATA: length, HOLE: value}.get(kind, 0)
            check(offset + extent <= LAST, "beyond every offset")
        check(length > 0 or body_crc == 0, "checksum of nothing")
        body = stream[at + 32:at + 32 + length]
        check(len(body) == length, "cut off in a body")
        check(kind == DATA or crc32c(body) == body_crc, "body checksum")
        yield kind, offset, value, body, body_crc
        at += 32 + length


class Hello:
    def __init__(self, body):
        (self.version, self.least, self.max_payload, self.required, self.optional, self.length,
         self.source_size, self.source_offset, self.data_bytes, self.transfer_id, self.identity,
         self.keepalive) = struct.unpack("<HHIQQQQQQ16s32sI4x", body[:112])
        check(1 <= self.least <= self.version and self.least <= 1, "version")
        check(self.required & ~(CHECKSUM | DIGEST) == 0, "features")
        check(1 <= self.max_payload <= MAX_PAYLOAD, "payload")
        length = 0 if self.length == UNKNOWN else self.length
        check(self.source_offset + length <= LAST, "sizes")
        if self.source_size != UNKNOWN:
            check(self.source_offset + length <= self.source_size <= LAST, "sizes")
        if self.data_bytes != UNKNOWN:
            most = min(size for size in (self.length, self.source_size, LAST) if size != UNKNOWN)
            check(self.data_bytes <= most, "sizes")


def decode(stream):
    """The data and the holes of a stream, as they come, and its length."""
    digest = Digest()
    coming = frames(stream)
    first = next(coming, None)
    check(first is not None and first[0] == HELLO and first[1] == 0, "no HELLO")
    hello = Hello(first[3])
    at = data_bytes = hole_bytes = 0
    for kind, offset, value, body, body_crc in coming:
        if kind in (DATA, HOLE, CHECKPOINT, END):
            check(offset == at, "offset")
        if kind == DATA:
            check(len(body) <= hello.max_payload, "payload")
            check(body_crc == (crc32c(body) if hello.required & CHECKSUM else 0), "payload checksum")
            check(at + len(body) <= hello.length, "beyond the length")
            yield "data", at, body
            digest.data(body)
            at += len(body)
            data_bytes += len(body)
        elif kind == HOLE:
            check(value > 0, "empty hole")
            check(at + value <= hello.length, "beyond the length")
            yield "hole", at, value
            digest.hole(value)
            at += value
            hole_bytes += value
        elif kind == CHECKPOINT:
            check(hello.required & DIGEST and value == digest.value(), "digest")
        elif kind == END:
            check(hello.length in (UNKNOWN, at), "length")
            check(struct.unpack("<QQ", body[:16]) == (data_bytes, hole_bytes), "counts")
            check(value == (digest.value() if hello.required & DIGEST else 0), "digest")
            check(next(coming, None) is None, "more after the end")
            yield "end", at, None
            return
        elif kind == ERROR:
            raise Refused("the sender failed")
        else:
            check(kind == KEEPALIVE or kind >= 128, "out of place")
    raise Refused("cut off before the end")


def show(name, out):
    with open(name, "rb") as file:
        stream = file.read()
    out.write(f"file {name}\n")
    try:
        for kind, offset, what in decode(stream):
            if kind == "data":
                out.write(f"data {offset} {what.hex()}\n")
            elif kind == "hole":
                out.write(f"hole {offset} {what}\n")
            else:
                out.write(f"end {offset}\n")
    except Refused as reason:
        out.write(f"error {reason}\n")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: decoder.py FILE...")
    for argument in sys.argv[1:]:
        show(argument, sys.stdout)

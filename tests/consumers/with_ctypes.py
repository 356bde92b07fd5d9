# SPDX-License-Identifier: MIT OR Apache-2.0
"""A program with ctypes: with_ctypes.py LIBRARY INCLUDE. Copies a file with a hole, and prints the library's version."""

import ctypes
import os
import sys
import tempfile

from constants import Header, in_c, same


class SinkOptions(ctypes.Structure):
    """The start of sparsestream_sink_options: what a struct does not have is its default."""

    _fields_ = [("size", ctypes.c_uint64), ("flags", ctypes.c_uint64)]


def main():
    library, include = sys.argv[1:]
    header = Header(os.path.join(include, "sparsestream.h"))
    same("constants", header.constants, in_c(header, include))

    lib = ctypes.CDLL(library)
    lib.sparsestream_version.restype = ctypes.c_char_p
    lib.sparsestream_last_error.restype = ctypes.c_char_p
    for name in ("source_free", "sink_free", "transfer_free"):
        function = getattr(lib, "sparsestream_" + name)
        function.argtypes, function.restype = [ctypes.c_void_p], None
    lib.sparsestream_transfer_new.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    lib.sparsestream_transfer_run.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    lib.sparsestream_transfer_run.restype = ctypes.c_int

    def check(code):
        if code < 0:
            raise OSError(-code, lib.sparsestream_last_error().decode())

    with tempfile.TemporaryFile() as source_file, tempfile.TemporaryFile() as sink_file:
        source_file.write(b"data")
        source_file.truncate(1 << 20)
        source_file.seek(0)
        source, sink, transfer = (ctypes.c_void_p() for _ in range(3))
        options = SinkOptions(ctypes.sizeof(SinkOptions), header.constants["SPARSESTREAM_SYNC"])
        check(lib.sparsestream_source_from_fd(source_file.fileno(), None, ctypes.byref(source)))
        check(lib.sparsestream_sink_to_fd(sink_file.fileno(), ctypes.byref(options), ctypes.byref(sink)))
        check(lib.sparsestream_transfer_new(source, sink, None, ctypes.byref(transfer)))
        check(lib.sparsestream_transfer_run(transfer, 0))
        for kind, handle in (("transfer", transfer), ("sink", sink), ("source", source)):
            getattr(lib, f"sparsestream_{kind}_free")(handle)
        sink_file.seek(0)
        assert sink_file.read() == b"data" + bytes((1 << 20) - 4)

    try:
        check(lib.sparsestream_source_from_fd(-1, None, ctypes.byref(source)))
    except OSError as error:
        assert error.strerror, "a failure has words"
    else:
        raise SystemExit("descriptor -1 is a source")
    print(lib.sparsestream_version().decode())


main()

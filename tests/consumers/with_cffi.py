# SPDX-License-Identifier: MIT OR Apache-2.0
"""A program with cffi, which reads the header itself: with_cffi.py LIBRARY INCLUDE. Prints the library's version."""

import os
import sys
import tempfile

import cffi

from constants import Header, in_c, same


def main():
    library, include = sys.argv[1:]
    header = Header(os.path.join(include, "sparsestream.h"))
    ffi = cffi.FFI()
    ffi.cdef("\n".join(f"#define {name} {value}" for name, value in header.constants.items()) + header.declarations)
    lib = ffi.dlopen(library)

    compiled = in_c(header, include)
    same("constants", {name: getattr(lib, name) for name in header.constants}, compiled)
    same("sizes", {name: ffi.sizeof(name) for name in header.structs}, compiled)

    seen = []

    @ffi.callback("int(void *, const sparsestream_stats *)")
    def progress(_, stats):
        seen.append((stats.data_bytes, stats.hole_bytes))
        return 0

    def check(code):
        if code < 0:
            raise OSError(-code, ffi.string(lib.sparsestream_last_error()).decode())

    with tempfile.TemporaryFile() as source_file, tempfile.TemporaryFile() as sink_file:
        source_file.write(b"data" * 1024)
        source_file.truncate(1 << 20)
        options = ffi.new("sparsestream_transfer_options *")
        options.size = ffi.sizeof("sparsestream_transfer_options")
        options.progress = progress
        source, sink = ffi.new("sparsestream_source **"), ffi.new("sparsestream_sink **")
        transfer = ffi.new("sparsestream_transfer **")
        check(lib.sparsestream_source_from_fd(source_file.fileno(), ffi.NULL, source))
        check(lib.sparsestream_sink_to_fd(sink_file.fileno(), ffi.NULL, sink))
        check(lib.sparsestream_transfer_new(source[0], sink[0], options, transfer))
        check(lib.sparsestream_transfer_run(transfer[0], 0))
        lib.sparsestream_transfer_free(transfer[0])
        lib.sparsestream_sink_free(sink[0])
        lib.sparsestream_source_free(source[0])
        sink_file.seek(0)
        assert sink_file.read() == b"data" * 1024 + bytes((1 << 20) - 4096)
    assert sum(seen[-1]) == 1 << 20, seen
    print(ffi.string(lib.sparsestream_version()).decode())


main()

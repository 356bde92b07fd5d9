/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The library's code is in the Rust archive; meson links a shared library
 * only for the sake of a source. This one holds the header to the compiler.
 */
#include <sparsestream.h>

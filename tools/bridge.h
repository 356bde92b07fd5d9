/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The bridges to other libraries, which are loaded when an operand needs one. */

#ifndef BRIDGE_H
#define BRIDGE_H

/* A library that is loaded at run time, and the packages that have it. */
struct bridge_file {
    const char *kind, *library, *debian, *fedora;
};

/* Loads a bridge for the operand of this name. Returns what dlopen(3) does, or NULL after a message. */
void *bridge_load(const char *name, const struct bridge_file *file);

#endif

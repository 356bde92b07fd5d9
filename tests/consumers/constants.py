# SPDX-License-Identifier: MIT OR Apache-2.0
"""What a Python program reads from the header, and what a C compiler makes of the same header."""

import os
import re
import subprocess
import tempfile


class Header:
    """The declarations of the installed header, without comments and directives."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            text = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.DOTALL)
        text = re.sub(r"\\\n", " ", text)
        # Numbers, and expressions of numbers and of other constants. SPARSESTREAM_VERSION_NUMBER calls a macro.
        self.constants = {}
        for name, value in re.findall(r"^#define (SPARSESTREAM_\w+) +([^\s\"].*)$", text, re.MULTILINE):
            if name == "SPARSESTREAM_VERSION_NUMBER":
                continue
            expression = re.sub(r"\b(0x[0-9a-fA-F]+|\d+)[UL]*\b", r"\1", value)
            if not re.fullmatch(r"[\w\s()<|+*-]+", expression):
                raise SystemExit(f"{name} is {value}, which is not an expression of numbers")
            self.constants[name] = int(eval(expression, {"__builtins__": {}}, self.constants))  # pylint: disable=eval-used
        text = "\n".join(line for line in text.split("\n") if not line.startswith("#"))
        text = re.sub(r'extern "C" \{(.*)\}', r"\1", text, flags=re.DOTALL)
        self.declarations = re.sub(r"\n\s*\n+", "\n", text)
        self.structs = re.findall(r"^\} (sparsestream_\w+);", self.declarations, re.MULTILINE)
        # The values of enumerations, where constants are such.
        for body in re.findall(r"\benum\b[^{};]*\{(.*?)\}", self.declarations, re.DOTALL):
            for name, value in re.findall(r"\b(SPARSESTREAM_\w+)\s*=\s*(-?\w+)", body):
                self.constants[name] = int(value.rstrip("UL"), 0)


def in_c(header, include):
    """The constants, and the sizes of the structs, as the C compiler has them."""
    lines = ["#include <sparsestream.h>", "#include <stdio.h>", "int main(void) {"]
    lines += [f'printf("{name} %lld\\n", (long long){name});' for name in header.constants]
    lines += [f'printf("{name} %zu\\n", sizeof({name}));' for name in header.structs]
    with tempfile.TemporaryDirectory() as directory:
        program = os.path.join(directory, "sizes")
        compiler = os.environ.get("CC", "cc").split()
        subprocess.run([*compiler, "-w", "-I", include, "-x", "c", "-o", program, "-"],
                       input="\n".join(lines) + "return 0; }\n", text=True, check=True)
        said = subprocess.run([program], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {name: int(value) for name, value in (line.split() for line in said.splitlines())}


def same(what, ours, theirs):
    """Ends the program if Python and C differ, or if there is nothing to compare."""
    differ = {name: (value, theirs.get(name)) for name, value in ours.items() if value != theirs.get(name)}
    if differ or not ours:
        raise SystemExit(f"{what}: Python and C differ: {differ or 'there are none'}")

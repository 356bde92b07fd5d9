# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
#
# Code shared by tests of the sparsestream command. Source this after TOOL is set; then work in a scratch directory.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../build-facts/tap.sh
. "$here/../build-facts/tap.sh"

TOOL=$(realpath "$TOOL")
[ -x "$TOOL" ] || { echo "Bail out! no program $TOOL"; exit 1; }
cd "$scratch" || exit 1

tool() { timeout 60 "$TOOL" "$@"; }
# The same in the background: `begin ... & pid=$!` gives a process that a signal reaches.
begin() { exec "$TOOL" "$@"; }

# ends NAME STATUS PATTERN COMMAND...: it exits so; on standard error it says one line of this pattern, or
# nothing if the pattern is empty.
ends() {
    local name=$1 status=$2 pattern=$3 got lines
    shift 3
    "$@" >out 2>err </dev/null
    got=$?
    lines=$(wc -l <err)
    if [ "$got" -ne "$status" ]; then
        fail "$name" "exit status $got, wanted $status, from: $*
$(cat out err)"
    elif [ -z "$pattern" ] && [ "$lines" -ne 0 ]; then
        fail "$name" "said on standard error: $(cat err)"
    elif [ -n "$pattern" ] && { [ "$lines" -ne 1 ] || ! grep -Eq -- "$pattern" err; }; then
        fail "$name" "wanted one line like '$pattern', got:
$(cat err)"
    else
        pass "$name"
    fi
}

# same_blocks A B: as much is allocated. A file system also counts the blocks in which it lists what it has allocated, and
# how many of them it needs depends on where it found room.
same_blocks() {
    local a b
    a=$(stat -c %b "$1") b=$(stat -c %b "$2")
    [ $((a > b ? a - b : b - a)) -le 128 ] || { stat -c '%n: %b blocks' "$1" "$2"; return 1; }
}

# same NAME A B: the same bytes, by cmp, the same holes and the same allocation.
same() {
    local said
    if ! cmp -s "$2" "$3"; then
        fail "$1" "$2 and $3 differ"
    elif ! said=$(diff <(tool map --list "$2") <(tool map --list "$3")); then
        fail "$1" "$said"
    elif ! said=$(same_blocks "$2" "$3"); then
        fail "$1" "$said"
    else
        pass "$1"
    fi
}

# mount_new KIND DIRECTORY [MKFS-OPTION...]: mounts an empty file system at a new directory.
mount_new() {
    local kind=$1 at=$2
    shift 2
    mkdir "$at"
    case $kind in
    tmpfs | ramfs) mount -t "$kind" none "$at" 2>/dev/null ;;
    *)
        truncate -s 400M "$at.image"
        "mkfs.$kind" "$@" "$at.image" >/dev/null 2>&1 && mount -o loop "$at.image" "$at" 2>/dev/null
        ;;
    esac
}

# data FILE OFFSET LENGTH: random bytes there.
data() { head -c "$3" /dev/urandom | dd of="$1" bs=1M oflag=seek_bytes seek="$2" conv=notrunc status=none iflag=fullblock; }

until_true() { # COMMAND...: waits for it, at most 5 s
    local i
    for ((i = 0; i < 250; i++)); do
        "$@" && return
        sleep 0.02
    done
    fail "waited for: $*"
    return 1
}

# The address that a program says, in this file, that it listens on.
address() { sed -n 's/^listening on //p' "$1" 2>/dev/null; }
listens() { [ -n "$(address "$1")" ]; }

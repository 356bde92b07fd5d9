# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
#
# Facts as TAP, for bash. Source this, state facts, end with `finish`.

set -u
export LC_ALL=C

# A build of cargo or meson inside a test starts from the user's own settings only.
unset MAKEFLAGS MFLAGS MESON_TEST_ITERATION DESTDIR

tap_count=0
tap_failed=0
scratch=$(mktemp -d "${TMPDIR:-/tmp}/sparsestream-facts.XXXXXX") || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM

pass() {
    tap_count=$((tap_count + 1))
    printf 'ok %d - %s\n' "$tap_count" "$1"
}

# fail NAME [DIAGNOSTICS]
fail() {
    tap_count=$((tap_count + 1))
    tap_failed=$((tap_failed + 1))
    printf 'not ok %d - %s\n' "$tap_count" "$1"
    if [ -n "${2-}" ]; then
        printf '%s\n' "$2" | tail -n 60 | sed 's/^/# /'
    fi
}

# skip NAME REASON
skip() {
    tap_count=$((tap_count + 1))
    printf 'ok %d - %s # SKIP %s\n' "$tap_count" "$1" "$2"
}

# is NAME GOT WANTED
is() {
    if [ "$2" = "$3" ]; then
        pass "$1"
    else
        fail "$1" "$(diff -u --label wanted --label got <(printf '%s\n' "$3") <(printf '%s\n' "$2"))"
    fi
}

# check NAME COMMAND...: the command succeeds. Its output is shown if it does not.
check() {
    local name=$1 said
    shift
    if said=$("$@" 2>&1); then
        pass "$name"
    else
        fail "$name" "exit status $? from: $*
$said"
        return 1
    fi
}

# The plan comes last: a script that ends early has none, and fails.
finish() {
    printf '1..%d\n' "$tap_count"
    exit $((tap_failed != 0))
}

#!/bin/sh
# Build every board that has a device twice, the second time from an empty cache, and compare the bytes.
# Usage: build_boards.sh HWGEN DIR [BOARD...]
set -eu
hwgen=$1
out=$2
shift 2
mkdir -p "$out"
[ $# -gt 0 ] || set -- aup-zu3 kv260 pynq-z2 rfsoc4x2 ultra96v2 zcu104
for board in "$@"; do
    "$hwgen" build --board "$board" --out "$out/first/$board" >"$out/$board.log" 2>&1 || { cat "$out/$board.log" >&2; exit 1; }
    for check in lint scripts; do
        grep -q "^$check: clean$" "$out/$board.log" || { echo "$board: $check is not clean, see $out/$board.log" >&2; exit 1; }
    done
    if grep "^device tree: " "$out/$board.log" | grep -qv ": clean$"; then
        echo "$board: the device tree was not checked, see $out/$board.log" >&2; exit 1
    fi
    empty=$(mktemp -d)
    HWGEN_CACHE=$empty "$hwgen" build --board "$board" --out "$out/second/$board" >"$out/$board.log" 2>&1 ||
        { cat "$out/$board.log" >&2; rm -rf "$empty"; exit 1; }
    rm -rf "$empty"
    diff -r "$out/first/$board" "$out/second/$board"
    echo "$board: lint clean, scripts clean, two builds with the same bytes"
done

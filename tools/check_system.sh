#!/bin/sh
# Says which system packages are missing and how to get them. Argument: the Python to use.
python="$1"
packages=""
need() {
    printf 'missing: %s (%s)\n' "$1" "$2" >&2
    packages="$packages $3"
}

if ! command -v "$python" >/dev/null 2>&1; then
    need "$python" "Python 3.11 or newer" "python3 python3-venv"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    printf 'missing: Python 3.11 or newer, found %s\n' "$("$python" --version 2>&1)" >&2
    printf 'install a newer one and run: make PYTHON=python3.11 ...\n' >&2
    exit 2
elif ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    need "venv" "virtual environments" python3-venv
fi
command -v "${CXX:-g++}" >/dev/null 2>&1 || need "${CXX:-g++}" "compiles the simulator" g++
command -v perl >/dev/null 2>&1 || need perl "starts Verilator" perl
command -v make >/dev/null 2>&1 || need make "builds the simulator" make

# Tests that run Tcl are skipped without an interpreter: tclsh, or the one inside tkinter.
if ! command -v tclsh >/dev/null 2>&1 && ! "$python" -c 'import tkinter' >/dev/null 2>&1; then
    printf 'recommended: tcl (runs the build scripts of boards); on Debian or Ubuntu: sudo apt-get install tcl\n' >&2
fi

if [ -n "$packages" ]; then
    printf 'on Debian or Ubuntu run: sudo apt-get install%s\n' "$packages" >&2
    exit 2
fi

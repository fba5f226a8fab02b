"""Runs Tcl in a real interpreter, with commands that are answered in Python.

The interpreter is ``tclsh``, or the one inside ``tkinter``, in a process of its own. Each new command is a Tcl procedure that
writes its words to a pipe and waits for the answer.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ....errors import HwgenError

__all__ = ["CommandError", "TKINTER_SHELL", "Word", "find_tcl", "run_tcl"]


class CommandError(Exception):
    """Becomes an error in the script that called the command."""


class Word(str):
    """A word of a command; ``items`` are its elements if it is read as a list."""

    items: tuple[str, ...]

    def __new__(cls, text: str, items: Sequence[str] = ()) -> Word:
        word = super().__new__(cls, text)
        word.items = tuple(items)
        return word


Command = Callable[[Sequence[Word]], str]

#: Words travel as hexadecimal UTF-8: the word, then its elements, all after a dot so that empty ones stay visible.
_PRELUDE = r"""
fconfigure stdin -translation lf -encoding ascii
set hwgen_pipe stdout
fconfigure stdout -translation lf
proc hwgen_hex {text} { return .[binary encode hex [encoding convertto utf-8 $text]] }
proc hwgen_call {name args} {
  set words [hwgen_hex $name]
  foreach word $args {
    set elements {}
    if {[string is list $word]} { foreach element $word { lappend elements [hwgen_hex $element] } }
    lappend words [join [concat [hwgen_hex $word] $elements] ,]
  }
  puts $::hwgen_pipe "hwgen_call [join $words]"
  flush $::hwgen_pipe
  gets stdin answer
  set text [encoding convertfrom utf-8 [binary decode hex [string range $answer 3 end]]]
  if {[string range $answer 0 1] eq "ok"} { return $text }
  return -code error $text
}
"""

#: The interpreter of tkinter, which has no ``exit`` of its own.
TKINTER_SHELL = (
    sys.executable,
    "-c",
    "import os, sys, tkinter\n"
    "tcl = tkinter.Tcl()\n"
    "tcl.createcommand('exit', lambda code='0': (tcl.eval('flush stdout'), os._exit(int(code))))\n"
    "tcl.evalfile(sys.argv[1])",
)


def find_tcl() -> list[str] | None:
    """Command line that takes a script file as its last word; None where there is no Tcl."""
    shell = shutil.which("tclsh")
    if shell is not None:
        return [shell]
    if importlib.util.find_spec("_tkinter") is not None:
        probe = subprocess.run([sys.executable, "-c", "import tkinter"], capture_output=True, check=False)
        if probe.returncode == 0:
            return list(TKINTER_SHELL)
    return None


def unpack(line: str) -> list[Word]:
    words = []
    for token in line.split(" ")[1:]:
        text, *items = (bytes.fromhex(part[1:]).decode() for part in token.split(","))
        words.append(Word(text, items))
    return words


def run_tcl(
    script: Path,
    arguments: Sequence[str],
    commands: Mapping[str, Command],
    shell: Sequence[str] | None = None,
    prelude: str = "",
) -> tuple[int, list[str]]:
    """Run a script with extra commands, after the Tcl text ``prelude``. Returns its exit code and what it printed."""
    launcher = list(shell) if shell is not None else find_tcl()
    if launcher is None:
        raise HwgenError("tool", "there is no Tcl interpreter", "sudo apt-get install tcl")
    text = [_PRELUDE]
    text += [f"proc {name} {{args}} {{ return [uplevel #0 [list hwgen_call {name} {{*}}$args]] }}" for name in commands]
    text += [
        prelude,
        f"set argv0 {{{script}}}",
        f"set argv {{{' '.join('{' + a + '}' for a in arguments)}}}",
        f"set argc {len(arguments)}",
        f"info script {{{script}}}",
        f"if {{[catch {{source {{{script}}}}} message]}} {{ puts stderr $message; exit 1 }}",
        "exit 0",
    ]
    printed: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        start = Path(directory) / "start.tcl"
        start.write_text("\n".join(text), encoding="utf-8")
        process = subprocess.Popen(
            [*launcher, str(start)],
            cwd=script.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        assert process.stdin is not None and process.stdout is not None
        with process:
            for line in process.stdout:
                if not line.startswith("hwgen_call "):
                    printed.append(line.rstrip("\n"))
                    continue
                name, *words = unpack(line.strip())
                try:
                    answer = "ok " + commands[name](words).encode().hex()
                except CommandError as error:
                    answer = "no " + str(error).encode().hex()
                process.stdin.write(answer + "\n")
                process.stdin.flush()
        return process.returncode, printed

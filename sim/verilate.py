"""Compiling an accelerator's Verilog into a shared library with its memory model, once per design."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from ..files import cache_directory, locked
from ..rounding import ceil_div
from .noise import add_noise
from .toolchain import BuildFailed, Toolchain, ToolMissing, find_toolchain, require_wave_libraries, run

__all__ = [
    "BuildFailed",
    "InterfaceMismatch",
    "LibraryDescription",
    "Probe",
    "ToolMissing",
    "build_library",
]

Progress = Callable[[str], None]

MEMORY_SOURCES = ("dram.cpp", "dram_controller.cpp", "axi_monitor.cpp")  # the same for every design
_MEMORY_HEADERS = ("axi.hpp", "axi_monitor.hpp", "dram.hpp")
_SOURCES = ("harness.cpp", "faults.cpp", "interface.cpp")
_HEADERS = ("mirror.hpp", "harness.hpp")
_CLASS = "Vdut"
_LIBRARY = "libaccelerator.so"
_JOBS = 2
_MANY = 8  # files from which on a precompiled header saves more than it takes

_VERILATOR_FLAGS = (
    "--cc", "--prefix", _CLASS, "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "--quiet",
    "--output-split-cfuncs", "2000", "-Wno-fatal", "-Wno-lint", "-Wno-style", "-Wno-WIDTH",
)
_SPLIT = "20000"  # size of a file where files are compiled beside each other
_NOISE_FLAGS = ("--x-assign", "unique", "--x-initial", "unique")  # the last of two settings counts
# Several libraries may live in one process: none may bind to another's copy of the Verilated run time.
_COMPILER_FLAGS = (
    "-std=gnu++17", "-march=native", "-fPIC", "-fno-plt", "-fno-gnu-unique", "-fvisibility-inlines-hidden",
    "-fno-semantic-interposition", "-DVERILATOR=1", "-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TIMING=0",
    "-DVM_TRACE_VCD=0", "-DVM_TRACE_SAIF=0", "-faligned-new", "-w",
)
_FAST = "-O3"
_RUNTIME = "-O1"  # little of it is on the path of a cycle
_SLOW = "-O1"  # code that runs once: start-up, declarations of waves
_PLAIN = "-Og"  # everything, where a build takes longer than what it is for: a cycle in a fifth of the time of -O0


class InterfaceMismatch(ValueError):
    """The design's ports are not what the simulator drives."""


@dataclass(frozen=True)
class Probe:
    """A memory of the accelerator that the simulator mirrors, from outputs that show its write port.

    `probe_{name}_valid` has one bit a lane, `probe_{name}_addr` is the row, `probe_{name}_data` the `lanes` words of
    `word_bits` bits, lane 0 lowest. A lane's word is written at each rising edge at which its valid bit is set.
    """

    name: str
    depth: int
    word_bits: int
    lanes: int = 1

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z]\w*", self.name):
            raise ValueError(f"name must be an identifier, not {self.name!r}")
        for field in ("depth", "word_bits", "lanes"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)!r}")

    @property
    def word_bytes(self) -> int:
        """Bytes a word takes in the mirror: those of the smallest integer type that holds it, if there is one."""
        for size in (1, 2, 4, 8):
            if self.word_bits <= 8 * size:
                return size
        return ceil_div(self.word_bits, 8)


@dataclass(frozen=True)
class LibraryDescription:
    """What a library was built from; stored beside it."""

    top: str
    ports: int
    port_bits: int
    id_bits: int
    probes: tuple[Probe, ...]
    retire: bool
    trace: bool
    public: tuple[str, ...]
    optimize: bool
    noise: bool

    @classmethod
    def load(cls, library: Path) -> LibraryDescription:
        record = json.loads(_description_path(library).read_text())
        record["probes"] = tuple(Probe(**probe) for probe in record["probes"])
        record["public"] = tuple(record["public"])
        return cls(**record)


def build_library(
    verilog: str,
    *,
    top: str,
    ports: int,
    port_bits: int,
    id_bits: int,
    probes: Sequence[Probe] = (),
    trace: bool = False,
    public: Sequence[str] = (),
    optimize: bool = True,
    noise: bool = False,
    progress: Progress | None = None,
) -> Path:
    """The shared library for `SimulatedAccelerator`; from the cache if this very design was built before.

    `public` names registers and memories (signal names as in the Verilog, without their hierarchy) that faults may
    be injected into; it costs speed. `trace` allows waves and costs speed too. Without `optimize` a build is shorter and
    a cycle takes longer. With `noise` registers and memories begin with noise, and a read that meets a write returns
    noise (`add_noise`); the seed is the simulation's. `progress` is called with a line of text
    as each step of a build begins, and not at all when the library comes from the cache.
    """
    if port_bits not in (32, 64, 128):
        raise ValueError(f"port_bits must be 32, 64 or 128, not {port_bits!r}")
    if not 1 <= ports <= 100:
        raise ValueError(f"ports must be 1 to 100, not {ports!r}")
    if not 1 <= id_bits <= 4:
        raise ValueError(f"id_bits must be 1 to 4, not {id_bits!r}")
    if len({probe.name for probe in probes}) != len(probes) or any(probe.name == "retire" for probe in probes):
        raise ValueError(f"probes must have names of their own other than 'retire', not {[p.name for p in probes]!r}")

    toolchain = find_toolchain()
    description = LibraryDescription(
        top=top,
        ports=ports,
        port_bits=port_bits,
        id_bits=id_bits,
        probes=tuple(probes),
        retire=re.search(r"\bprobe_retire_valid\b", verilog) is not None,
        trace=trace,
        public=tuple(sorted(set(public))),
        optimize=optimize,
        noise=noise,
    )
    identity = json.dumps([asdict(description), _toolchain_identity(toolchain), _source_identity(), verilog])
    name = f"{re.sub(r'[^A-Za-z0-9_]', '_', top)}-{hashlib.sha256(identity.encode()).hexdigest()[:24]}"
    builder = _Builder(toolchain, description, progress or (lambda line: None))
    return cached(name, _LIBRARY, lambda directory: builder.build(verilog, directory))


def _description_path(library: Path) -> Path:
    return library.with_name("description.json")


def _toolchain_identity(toolchain: Toolchain) -> list[str]:
    return [
        toolchain.verilator_version, toolchain.compiler, toolchain.compiler_version, toolchain.processor,
        *_VERILATOR_FLAGS, *_COMPILER_FLAGS, _FAST, _SLOW, _PLAIN, _RUNTIME,
    ]


def _source_identity() -> list[str]:
    here = Path(__file__).parent
    names = (*_SOURCES, *_HEADERS, Path(__file__).name, "noise.py")
    return [*memory_model_identity(), *((here / name).read_text() for name in names)]


def memory_model_identity() -> list[str]:
    """The text of the memory model, for the names of what is built with it."""
    return [(Path(__file__).parent / name).read_text() for name in (*MEMORY_SOURCES, *_MEMORY_HEADERS)]


def cached(name: str, product: str, build: Callable[[Path], None]) -> Path:
    """Path of `product` in the cache entry `name`, made by `build` in an empty directory if there is no such entry.

    The entry appears in one step, and two processes that want it build it once.
    """
    root = cache_directory()
    entry = root / name
    if (entry / product).exists():
        return entry / product
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / f"{name}.lock"):
        if not (entry / product).exists():
            temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
            try:
                build(temporary)
                shutil.rmtree(entry, ignore_errors=True)  # what an incomplete removal may have left
                os.replace(temporary, entry)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return entry / product


class _Builder:
    """One build: Verilog to C++, checks, objects, library."""

    def __init__(self, toolchain: Toolchain, description: LibraryDescription, progress: Progress) -> None:
        self.toolchain = toolchain
        self.description = description
        self.progress = progress
        self.flags = [
            *_COMPILER_FLAGS,
            f"-DVM_TRACE={int(description.trace)}",
            f"-DVM_TRACE_FST={int(description.trace)}",
            f"-I{toolchain.include}",
            f"-I{toolchain.include / 'vltstd'}",
        ]

    def build(self, verilog: str, directory: Path) -> None:
        if self.description.trace:
            require_wave_libraries(self.toolchain, directory)
        work = directory / "work"
        work.mkdir()
        self.progress(f"verilating {self.description.top}")
        self._verilate(verilog, work)
        (work / "binding.hpp").write_text(_binding(self.description, _read_ports(work / f"{_CLASS}.h")))

        runtime = self._runtime(work)
        here = Path(__file__).parent
        objects = self._compile(self._jobs(work, here), work, ["-I.", f"-I{here}"])

        self.progress(f"linking {self.description.top}")
        libraries = ["-llz4", "-lz"] if self.description.trace else []
        self._run(
            ["-shared", "-Wl,-Bsymbolic", "-pthread", "-o", str(directory / _LIBRARY), *objects, *runtime, *libraries],
            work,
        )
        shutil.rmtree(work)
        _description_path(directory / _LIBRARY).write_text(json.dumps(asdict(self.description), indent=1))

    def _jobs(self, work: Path, here: Path) -> list[tuple[Path, str]]:
        """Files to compile, and how each is optimized."""
        sources = sorted(work.glob(f"{_CLASS}*.cpp"))
        self.progress(f"compiling {len(sources)} files of {self.description.top}")
        if not self.description.optimize:
            # Reading the headers takes longer than compiling a file: they are read once.
            whole = work / "whole.cpp"
            whole.write_text("".join(f'#include "{source}"\n' for source in [*(s.name for s in sources), *_SOURCES]))
            return [(whole, _PLAIN)]
        if len(sources) > _MANY:
            self._precompile(work)
        jobs = [(source, _SLOW if source.stem.endswith("__Slow") else _FAST) for source in sources]
        return [*jobs, *((here / name, _FAST) for name in _SOURCES)]

    def _verilate(self, verilog: str, work: Path) -> None:
        noise = self.description.noise
        (work / "design.v").write_text(add_noise(verilog) if noise else verilog)
        split = _SPLIT if self.description.optimize else "0"
        arguments = [*_VERILATOR_FLAGS, *(_NOISE_FLAGS if noise else ()), "--output-split", split]
        arguments += ["--top-module", self.description.top, "--Mdir", "."]
        if self.description.trace:
            arguments += ["--trace-fst", "--trace-structs"]
        if self.description.public:
            lines = [f'public_flat_rw -module "*" -var "{name}"' for name in self.description.public]
            (work / "public.vlt").write_text("\n".join(["`verilator_config", *lines]) + "\n")
            arguments += ["--vpi", "public.vlt"]
        self.toolchain.verilate([*arguments, "design.v"], work)

    def _runtime(self, work: Path) -> list[str]:
        """Objects that are the same for every design, so built once: Verilator's and the memory model's."""
        text = (work / f"{_CLASS}_classes.mk").read_text()
        section = re.search(r"VM_GLOBAL_FAST \+= \\\n((?:\s+\w+ \\\n)*)", text)
        names = re.findall(r"\w+", section.group(1)) if section else []
        jobs = [(self.toolchain.include / f"{name}.cpp", _RUNTIME) for name in names]
        jobs += [(Path(__file__).parent / name, _FAST) for name in MEMORY_SOURCES]
        objects = []
        for job in jobs:
            name = job[0].stem
            identity = json.dumps([name, self.flags, _toolchain_identity(self.toolchain), _source_identity()])
            entry = f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:24]}"
            objects.append(cached(entry, f"{name}.o", partial(self._compile_shared, job)))
        return [str(path) for path in objects]

    def _compile_shared(self, job: tuple[Path, str], directory: Path) -> None:
        self.progress(f"compiling {job[0].name}")
        self._compile([job], directory, [])

    def _precompile(self, work: Path) -> None:
        """GCC takes the precompiled header that was built with the options of the file at hand."""
        header = f"{_CLASS}__pch.h"
        (work / f"{header}.gch").mkdir()
        self._parallel([
            ["-x", "c++-header", level, "-I.", header, "-o", f"{header}.gch/{level[1:]}"] for level in (_FAST, _SLOW)
        ], work)

    def _compile(self, jobs: Sequence[tuple[Path, str]], directory: Path, options: Sequence[str]) -> list[str]:
        # The largest first, so that no long one is left to the end.
        ordered = sorted(jobs, key=lambda job: -job[0].stat().st_size)
        self._parallel(
            [[level, *options, "-c", str(source), "-o", f"{source.stem}.o"] for source, level in ordered], directory
        )
        return [str(directory / f"{source.stem}.o") for source, _ in jobs]

    def _parallel(self, commands: Sequence[Sequence[str]], directory: Path) -> None:
        with ThreadPoolExecutor(_JOBS) as pool:
            for future in [pool.submit(self._run, command, directory) for command in commands]:
                future.result()

    def _run(self, arguments: Sequence[str], directory: Path) -> None:
        run([self.toolchain.compiler, *self.flags, *arguments], directory)


def _read_ports(header: Path) -> dict[str, tuple[str, int]]:
    """Direction and width of every port, from the header of the Verilated class."""
    ports = {}
    for direction, name, high, low in re.findall(r"VL_(IN|OUT)\w*\(&?(\w+),(\d+),(\d+)", header.read_text()):
        ports[name] = (direction.lower(), int(high) - int(low) + 1)
    return ports


def _expected_ports(description: LibraryDescription) -> Iterator[tuple[str, str, range]]:
    """Name, direction and allowed widths of each port the harness touches."""

    def exactly(bits: int) -> range:
        return range(bits, bits + 1)

    yield from (("clk", "in", exactly(1)), ("rst", "in", exactly(1)), ("irq", "out", exactly(1)))
    for prefix, slave in [("s_axi_", True)] + [(f"m{port:02d}_axi_", False) for port in range(description.ports)]:
        bits = 32 if slave else description.port_bits
        forward = {"awaddr": range(1, 65), "araddr": range(1, 65), "wdata": exactly(bits), "wstrb": exactly(bits // 8)}
        forward |= dict.fromkeys(("awvalid", "wvalid", "bready", "arvalid", "rready"), exactly(1))
        backward = {"rdata": exactly(bits), "rresp": exactly(2), "bresp": exactly(2)}
        backward |= dict.fromkeys(("awready", "wready", "bvalid", "arready", "rvalid"), exactly(1))
        if not slave:
            ids = exactly(description.id_bits)
            for channel in ("aw", "ar"):
                forward |= {f"{channel}id": ids, f"{channel}len": exactly(8), f"{channel}size": exactly(3)}
                forward[f"{channel}burst"] = exactly(2)
            forward["wlast"] = exactly(1)
            backward |= {"rid": ids, "bid": ids, "rlast": exactly(1)}
        for signals, direction in ((forward, "in" if slave else "out"), (backward, "out" if slave else "in")):
            for name, widths in signals.items():
                yield prefix + name, direction, widths
    for probe in description.probes:
        yield f"probe_{probe.name}_valid", "out", exactly(probe.lanes)
        yield f"probe_{probe.name}_addr", "out", range(1, 65)
        yield f"probe_{probe.name}_data", "out", exactly(probe.lanes * probe.word_bits)
    if description.retire:
        yield "probe_retire_valid", "out", exactly(1)
        yield "probe_retire_index", "out", range(1, 65)


def _check_ports(description: LibraryDescription, ports: dict[str, tuple[str, int]]) -> None:
    problems = []
    expected = set()
    for name, direction, widths in _expected_ports(description):
        expected.add(name)
        if name not in ports:
            problems.append(f"{direction}put {name} is missing")
        elif ports[name][0] != direction or ports[name][1] not in widths:
            wanted = f"{widths[0]}" if len(widths) == 1 else f"{widths[0]} to {widths[-1]}"
            problems.append(
                f"{name} must be an {direction}put of {wanted} bits, not an {ports[name][0]}put of {ports[name][1]}"
            )
    problems += [f"input {name} is unknown" for name, (way, _) in ports.items() if way == "in" and name not in expected]
    if problems:
        raise InterfaceMismatch(f"module {description.top}: " + "; ".join(problems))


def _binding(description: LibraryDescription, ports: dict[str, tuple[str, int]]) -> str:
    """The header that names this design's ports and probes for harness.cpp."""
    _check_ports(description, ports)
    each_port = " ".join(f"X({port}, m{port:02d}_axi_)" for port in range(description.ports))
    each_probe = " ".join(
        f"X({index}, {probe.name}, {probe.depth}, {probe.word_bits}, {probe.word_bytes}, {probe.lanes})"
        for index, probe in enumerate(description.probes)
    )
    return f"""\
#pragma once
#include "{_CLASS}.h"
#define HWGEN_MODEL {_CLASS}
#define HWGEN_PORTS {description.ports}
#define HWGEN_PORT_BYTES {description.port_bits // 8}
#define HWGEN_EACH_PORT(X) {each_port}
#define HWGEN_EACH_PROBE(X) {each_probe}
#define HWGEN_RETIRE {int(description.retire)}
#define HWGEN_TRACE {int(description.trace)}
#define HWGEN_POKE {int(bool(description.public))}
"""

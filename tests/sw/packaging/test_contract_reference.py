from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from hwgen.config import BuildConfig
from hwgen.contract import contract_hash
from hwgen.descriptors import FIELDS, Buffers, Fetch, Flag, Opcode
from hwgen.registers import register_map
from hwgen.sw.packaging.contract_reference import (
    c_header,
    descriptor_markdown,
    reference_markdown,
    register_json,
    register_markdown,
)

CONFIG = BuildConfig(name="demo")


def test_everything_is_in_the_reference() -> None:
    text = register_markdown(CONFIG) + descriptor_markdown()
    for r in register_map(CONFIG):
        assert r.description in text
    for name, _ in FIELDS:
        assert f"| `{name}` |" in text
    for members in (Opcode, Fetch, Flag, Buffers):
        for m in members:
            if m.value or members not in (Flag, Buffers):
                assert f"| {m.value} | `{m.name}` |" in text


def test_json_has_every_register_once() -> None:
    values = json.loads(json.dumps(register_json(CONFIG)))
    assert [r["name"] for r in values["registers"]] == [r.name for r in register_map(CONFIG)]
    assert values["contract_hash"] == f"{contract_hash(CONFIG):016x}"


def test_c_header_compiles(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "hwgen_registers.h").write_text(c_header(CONFIG))
    (tmp_path / "t.c").write_text(
        '#include "hwgen_registers.h"\n_Static_assert(HWGEN_RUNS == 0x28 && HWGEN_STATUS_DONE_MASK == 2 && '
        f'HWGEN_OPCODE_HEAD == 10 && HWGEN_BUFFERS_ACTIVATION == 2 && '
        f'HWGEN_TRACE_COUNT == 0x44 && HWGEN_TOKEN_WORDS == {CONFIG.chunk}, "");\n'
    )
    subprocess.run([compiler, "-Wall", "-Werror", "-c", "t.c", "-o", "t.o"], cwd=tmp_path, check=True)


def test_reference_page_is_up_to_date() -> None:
    """The command below was run after the last change of the contract."""
    page = Path(__file__).parents[3] / "docs" / "reference.md"
    assert page.read_text() == reference_markdown(CONFIG), "python -m hwgen.sw.packaging.contract_reference > docs/reference.md"

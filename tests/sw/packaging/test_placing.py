"""What lies in a build directory when another build takes its place; `test_build.py` has the results of Vivado."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.packaging.placing import place_build, results_in


def make_build(directory: Path, contract: str, *names: str) -> Path:
    directory.mkdir(exist_ok=True)
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(contract)
    manifest = {"contract_hash": contract, "files": dict.fromkeys(names, "digest")}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


A, B = "a" * 16, "b" * 16


def test_a_file_of_the_user_with_the_name_of_a_generated_one_is_kept(tmp_path: Path) -> None:
    out = make_build(tmp_path / "out", A, "one.v")
    (out / "two.v").write_text("mine")
    place_build(make_build(tmp_path / "new", B, "two.v"), out)
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "two.v", "two.v-2"]
    assert (out / "two.v").read_text() == B and (out / "two.v-2").read_text() == "mine"


def test_results_are_known_by_their_names(tmp_path: Path) -> None:
    """Folders of the user that only begin alike are none."""
    out = make_build(tmp_path / "out", A)
    mine = ["work-notes", "overlays", f"work-{A}"]
    made = ["overlay", f"overlay-{A}-01234567", f"work-{B}-89abcdef-2", "work-unknown-89abcdef"]
    for name in (*mine, *made):
        (out / name).mkdir()
    assert [p.name for p in results_in(out)] == sorted(made)
    placed = place_build(make_build(tmp_path / "new", B), out, clean=True)
    assert sorted(placed.removed) == sorted(made)
    assert sorted(p.name for p in out.iterdir()) == sorted([*mine, "manifest.json"])
    (tmp_path / "other" / "work").mkdir(parents=True)
    assert results_in(tmp_path / "other") == []


def test_equal_names_of_results_do_not_meet(tmp_path: Path) -> None:
    out = make_build(tmp_path / "out", A)
    for number in range(3):
        (out / "work").mkdir()
        (out / "work" / "file").write_text(str(number))
        place_build(make_build(tmp_path / "new", B), out)
        if number < 2:
            # As if the first build were in place again without its results.
            (out / "manifest.json").write_text(json.dumps({"contract_hash": A, "files": {}}))
    assert sorted((p / "file").read_text() for p in results_in(out)) == ["0", "1", "2"]


def test_a_damaged_manifest_loses_nothing(tmp_path: Path) -> None:
    out = make_build(tmp_path / "out", A, "one.v")
    (out / "manifest.json").write_text("{")
    (out / "work").mkdir()
    (out / "notes").write_text("mine")
    placed = place_build(make_build(tmp_path / "new", B, "one.v"), out)
    assert placed.before == "unknown" and placed.set_aside["work"].startswith("work-unknown-")
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "notes", "one.v", placed.set_aside["work"]]


def test_what_cannot_be_moved_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, new = make_build(tmp_path / "out", A), make_build(tmp_path / "new", B)
    (out / "notes").write_text("mine")
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "notes":
            raise PermissionError(13, "Permission denied", str(path))
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(HwgenError, match="notes cannot be moved or removed: Permission denied"):
            place_build(new, out)
    assert (tmp_path / ".out.old" / "notes").read_text() == "mine"
    place_build(make_build(tmp_path / "new", B), out)
    assert (out / "notes").read_text() == "mine" and not (tmp_path / ".out.old").exists()

"""Values of ``--set`` and ``--config``: every type, legal and not."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from hwgen.boards import load_board
from hwgen.config import BuildConfig
from hwgen.errors import HwgenError
from hwgen.sw.cli.options import Parser, add_sampling, configured_board, sampling_of
from hwgen.sw.runtime.sampling import Sampling


def configured(*changes: str, file: Path | None = None) -> BuildConfig:
    return configured_board(argparse.Namespace(board="demo", set=list(changes), config=file)).config


@pytest.mark.parametrize("yes", ["true", "True", "yes", "on", "1", "TRUE"])
@pytest.mark.parametrize("no", ["false", "no", "Off", "0"])
def test_booleans(yes: str, no: str) -> None:
    assert configured(f"fp8_query={yes}").fp8_query is True
    assert configured(f"fp8_query={yes}", f"fp8_query={no}").fp8_query is False


def test_numbers_and_text() -> None:
    config = configured("lanes=3", "clock_mhz=187.5", "name=mine", "ring_memory=block")
    assert (config.lanes, config.clock_mhz, config.name, config.ring_memory) == (3, 187.5, "mine", "block")


@pytest.mark.parametrize(("change", "message", "fix"), [
    ("fp8_query=maybe", "'maybe' is not a bool", "true or false, yes or no, on or off, 1 or 0"),
    ("fp8_query=", "'' is not a bool", "true or false"),
    ("probe=2", "'2' is not a bool", "true or false"),
    ("lanes=many", "'many' is not an int", "a whole number"),
    ("lanes=2.0", "'2.0' is not an int", "a whole number"),
    ("clock_mhz=fast", "'fast' is not a float", "a number"),
    ("lanes", "'lanes' is not a field", "lanes"),
    ("speed=1", "'speed' is not a field", "clock_mhz"),
])
def test_set_refuses(change: str, message: str, fix: str) -> None:
    with pytest.raises(HwgenError) as caught:
        configured(change)
    assert caught.value.kind == "configuration"
    assert message in caught.value.message and fix in caught.value.fix


@pytest.mark.parametrize("change", ["clock_mhz=nan", "clock_mhz=inf", "clock_mhz=0", "clock_mhz=-1", "lanes=-1", "engine=binary"])
def test_values_of_the_right_type_may_be_illegal(change: str) -> None:
    name, value = change.split("=")
    with pytest.raises(ValueError, match=f"^{name} must be .*{value}"):
        configured(change)


def test_config_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"fp8_query": True, "lanes": 3, "clock_mhz": 187.5, "name": "mine"}))
    config = configured(file=path)
    assert config.fp8_query is True and config == configured("fp8_query=yes", "lanes=3", "clock_mhz=187.5", "name=mine")
    assert configured("fp8_query=no", file=path).fp8_query is False


@pytest.mark.parametrize(("fields", "message"), [
    ({"fp8_query": "yes"}, "fp8_query must be true or false, not 'yes'"),
    ({"fp8_query": 1}, "fp8_query must be true or false, not 1"),
    ({"fp8_query": None}, "fp8_query must be true or false, not None"),
    ({"lanes": "3"}, "lanes must be a positive integer, not '3'"),
    ({"lanes": 3.0}, "lanes must be a positive integer, not 3.0"),
    ({"lanes": True}, "lanes must be a positive integer, not True"),
    ({"clock_mhz": "250"}, "clock_mhz must be a positive number, not '250'"),
    ({"clock_mhz": True}, "clock_mhz must be a positive number, not True"),
    ({"name": 3}, "name must be text, not 3"),
    ({"engine": ["int4"]}, "engine must be text, not ['int4']"),
    ({"speed": 1}, "unknown configuration field 'speed'; known fields: activation_memory, "),
])
def test_config_file_refuses(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(HwgenError) as caught:
        configured(file=path)
    assert caught.value.kind == "configuration" and f"--config {path}: {message}" in caught.value.message


def test_sampling() -> None:
    parser = Parser()
    add_sampling(parser)
    assert sampling_of(parser.parse_args([])) == Sampling()
    text = "--temperature 0.5 --top-k 3 --top-p 0.25 --repetition-penalty 2 --seed 7"
    assert sampling_of(parser.parse_args(text.split())) == Sampling(
        temperature=0.5, top_k=3, top_p=0.25, repetition_penalty=2.0, seed=7
    )


def test_a_board_without_changes_is_the_board() -> None:
    assert configured() == load_board("demo").config

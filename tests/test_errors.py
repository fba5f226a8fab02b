"""The error that a user can act on."""

from __future__ import annotations

from hwgen.errors import HwgenError, did_you_mean


def test_an_error_in_one_line_and_in_parts() -> None:
    error = HwgenError("file", "it is torn", "make it again")
    assert str(error) == "it is torn (make it again)" and error.to_dict() == {
        "kind": "file", "message": "it is torn", "fix": "make it again",
    }
    assert str(HwgenError("file", "it is torn")) == "it is torn"


def test_what_was_meant() -> None:
    assert did_you_mean("temprature", ["seed", "temperature"]) == "did you mean temperature? "
    assert did_you_mean("xyz", iter(["seed", "temperature"])) == ""

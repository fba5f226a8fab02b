from __future__ import annotations

import importlib

import pytest

from hwgen.errors import HwgenError
from hwgen.packages import needs


def test_a_missing_package_is_named_with_what_installs_it() -> None:
    with pytest.raises(HwgenError) as caught, needs("the golden model", "hwgen[sim]"):
        importlib.import_module("toaster.slots")
    assert caught.value.kind == "tool"
    assert caught.value.message == "the golden model needs a Python package that is missing: toaster"
    assert caught.value.fix == 'pip install "hwgen[sim]"'


@pytest.mark.parametrize("code", ["from hwgen.config import toaster", "import hwgen.toaster", "raise ImportError"])
def test_a_defect_of_our_own_is_not_hidden(code: str) -> None:
    with pytest.raises(ImportError), needs("the golden model", "hwgen[sim]"):
        exec(code)


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), needs("the golden model", "hwgen[sim]"):
        1 / 0  # noqa: B018  # the error is the point

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hwgen.sw.packaging.support import support_table
from hwgen.sw.packaging.tcl import find_tcl

PAGE = Path(__file__).parents[3] / "docs" / "boards.md"


@pytest.mark.skipif(find_tcl() is None, reason="no Tcl interpreter: apt-get install tcl")
def test_the_page_has_the_current_table() -> None:
    found = re.search(r"<!-- support -->\n(.*?)<!-- /support -->", PAGE.read_text(), re.S)
    assert found is not None
    assert found[1] == support_table(), "print it again: python -m hwgen.sw.packaging.support"

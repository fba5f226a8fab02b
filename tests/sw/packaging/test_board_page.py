from __future__ import annotations

from pathlib import Path

import pytest

from hwgen.sw.packaging.board_page import filled
from hwgen.sw.packaging.vivado.tcl import find_tcl

PAGE = Path(__file__).parents[3] / "docs" / "boards.md"


@pytest.mark.skipif(find_tcl() is None, reason="no Tcl interpreter: apt-get install tcl")
def test_the_page_has_the_current_tables() -> None:
    page = PAGE.read_text()
    assert page == filled(page), "print them again: python -m hwgen.sw.packaging.board_page --write docs/boards.md"


@pytest.mark.skipif(find_tcl() is None, reason="no Tcl interpreter: apt-get install tcl")
def test_a_page_without_the_sections_is_refused() -> None:
    with pytest.raises(ValueError, match="no section support"):
        filled("# Boards")

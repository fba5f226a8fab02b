"""Python packages that only some of hwgen needs: one that is missing is an error that says how to get it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import HwgenError

__all__ = ["needs"]


@contextmanager
def needs(what: str, requirement: str) -> Iterator[None]:
    """Around imports for ``what``: :class:`HwgenError` of kind "tool" when a package is missing that pip installs with
    ``requirement``, as "hwgen[sim]". Names that hwgen itself lacks are no such case.
    """
    try:
        yield
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] == "hwgen":
            raise
        raise HwgenError(
            "tool", f"{what} needs a Python package that is missing: {error.name}", f'pip install "{requirement}"'
        ) from error

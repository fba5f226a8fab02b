"""Python packages that only some of hwgen needs: one that is missing is an error that says how to get it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import HwgenError

__all__ = ["needs"]


@contextmanager
def needs(what: str, extra: str) -> Iterator[None]:
    """Around imports that ``what`` needs: :class:`HwgenError` of kind "tool" when a package of the ``extra`` is missing."""
    try:
        yield
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] == "hwgen":  # a defect of our own
            raise
        raise HwgenError(
            "tool", f"{what} needs a Python package that is missing: {error.name}", f'pip install "hwgen[{extra}]"'
        ) from error

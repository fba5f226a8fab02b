"""Python packages that only some of hwgen needs: one that is missing is an error that says how to get it."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution, distributions
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .errors import HwgenError

__all__ = ["install_command", "needs"]

#: A requirement of hwgen itself with extras, as "hwgen[sim,fmax]".
_OWN = re.compile(r"hwgen(?:\[([\w,]+)\])?")


def _requirements(extras: set[str]) -> list[str]:
    """What the installed hwgen requires for some of its extras."""
    found: list[str] = []
    for line in distribution("hwgen").requires or []:
        requirement, _, marker = line.partition(";")
        if not any(f'extra == "{extra}"' in marker.replace("'", '"') for extra in extras):
            continue
        inner = _OWN.fullmatch(requirement.strip())
        found += _requirements(set((inner[1] or "").split(","))) if inner else [requirement.strip()]
    return list(dict.fromkeys(found))


def _source(extras: str) -> list[str] | None:
    """Arguments of pip that install extras from where this copy came from; None where that is no more, or was never a place."""
    found = list(distributions(name="hwgen"))
    if not found:
        return ["--editable", f"{Path(__file__).resolve().parents[1]}[{extras}]"]
    # A checkout may have metadata of its build beside those of the installation, without the place.
    text = next((text for copy in found if (text := copy.read_text("direct_url.json"))), None)
    if text is None:
        return None
    origin = json.loads(text)
    url = urlsplit(origin["url"])
    if url.scheme != "file":
        kind = origin.get("vcs_info")
        return [f"hwgen[{extras}] @ " + (f"{kind['vcs']}+{origin['url']}@{kind['commit_id']}" if kind else origin["url"])]
    path = Path(unquote(url.path))
    if not path.exists():
        return None
    return [*(["--editable"] if origin.get("dir_info", {}).get("editable") else []), f"{path}[{extras}]"]


def install_command(requirement: str) -> str:
    """What to type for a requirement. hwgen is on no package index, so its extras ("hwgen[sim]") are installed from where this copy
    came from: a checkout, or a wheel by its path; where that is gone, the packages of the extra by their own names.
    """
    own = _OWN.fullmatch(requirement)
    arguments = [requirement]
    if own:
        extras = own[1] or ""
        arguments = _source(extras) or _requirements(set(extras.split(",")))
    return shlex.join([sys.executable or "python3", "-m", "pip", "install", *arguments])


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
            "tool", f"{what} needs a Python package that is missing: {error.name}", install_command(requirement)
        ) from error

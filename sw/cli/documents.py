"""The options ``--documents`` and ``--recompute``: texts whose keys and values are computed before anybody asks."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import HwgenError
from ..runtime.documents import DocumentStore, checked_share
from ..runtime.llm import LLM
from .output import Output

__all__ = ["add_documents", "check_documents", "read_documents"]


def add_documents(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--documents", type=Path, metavar="FOLDER",
        help="text files whose keys are computed at the start, and taken over where a prompt has the text of one",
    )
    parser.add_argument(
        "--recompute", type=float, default=None, metavar="S",
        help=f"share of a document's tokens that is computed again in a prompt, 0 to 1 (exact); {DocumentStore().recompute:g} if "
        "not given",
    )


def check_documents(options: argparse.Namespace) -> None:
    """Refuse options that say nothing, or do not go together."""
    if options.documents is None:
        if options.recompute is not None:
            raise HwgenError("usage", "--recompute is of documents", "add --documents FOLDER")
        return
    if options.recompute is not None:
        checked_share(options.recompute)
    if not options.documents.is_dir():
        raise HwgenError("usage", f"{options.documents} is not a folder", "give a folder of text files")
    if options.prefixes or options.boards is not None or len(options.model) > 1:
        raise HwgenError(
            "usage", "--documents are of one model that reads its prompts itself",
            "leave out --prefixes and --boards, and give one model",
        )


def read_documents(llm: LLM, options: argparse.Namespace, output: Output) -> None:
    """Compute the documents of a folder, in the order of their names."""
    if options.documents is None:
        return
    if options.recompute is not None:
        llm.documents.recompute = checked_share(options.recompute)
    for path in sorted(options.documents.iterdir()):
        if not path.is_file() or path.name.startswith("."):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise HwgenError("usage", f"{path} cannot be read as UTF-8 text", "take it out of the folder") from error
        document = llm.document(text)
        output.progress(f"{path.name}: keys and values of {len(document.tokens)} tokens")
    if not len(llm.documents):
        raise HwgenError("usage", f"{options.documents} has no files", "put text files into it")

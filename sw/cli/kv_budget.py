"""The option ``--kv-budget`` of commands that decode: how many blocks of its cache a decode step chooses."""

from __future__ import annotations

import argparse

from ...config import MAX_BUDGET, BuildConfig
from ...errors import HwgenError
from .options import at_least

__all__ = ["add_kv_budget", "answer_budget_of", "kv_budget_of"]


def add_kv_budget(parser: argparse.ArgumentParser, build: str = "takes a build with --set kv_budget=N") -> None:
    """``build``: what the option has to do with the build."""
    parser.add_argument(
        "--kv-budget", type=int, default=0, metavar="N",
        help="cached blocks that a decode step chooses for each key/value head, beside the first and the newest; 0 is all of them "
             f"({build})",
    )


def kv_budget_of(options: argparse.Namespace, config: BuildConfig | None = None) -> int:
    """The value of the option, which a build of ``config`` must have room for."""
    budget = at_least(options, "kv-budget", 0)
    if budget > MAX_BUDGET:
        raise HwgenError("usage", f"--kv-budget must be at most {MAX_BUDGET}, not {budget}", f"give {MAX_BUDGET} or less")
    if config is not None and budget > config.kv_budget:
        raise HwgenError(
            "configuration", f"--kv-budget {budget} is more than build {config.name!r} chooses, kv_budget={config.kv_budget}",
            f"build with --set kv_budget={max(2, budget)}",
        )
    return budget


def answer_budget_of(options: argparse.Namespace, config: BuildConfig | None = None) -> int:
    """The value of the option, which a build of ``config`` must have room for. Answers with a budget have no drafts."""
    budget = kv_budget_of(options, config)
    if budget and options.draft_model is not None:
        raise HwgenError(
            "usage", "answers with a budget of blocks have no drafts: these are runs of several tokens",
            "leave --draft-model or --kv-budget out",
        )
    return budget

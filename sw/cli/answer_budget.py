"""The option ``--kv-budget`` of commands that answer."""

from __future__ import annotations

import argparse

from ...config import BuildConfig
from ...errors import HwgenError
from .kv_budget import kv_budget_of

__all__ = ["answer_budget_of"]


def answer_budget_of(options: argparse.Namespace, config: BuildConfig | None = None) -> int:
    """The value of the option, which a build of ``config`` must have room for. Answers with a budget have no drafts."""
    budget = kv_budget_of(options, config)
    if budget and options.draft_model is not None:
        raise HwgenError(
            "usage", "answers with a budget of blocks have no drafts: these are runs of several tokens",
            "leave --draft-model or --kv-budget out",
        )
    return budget

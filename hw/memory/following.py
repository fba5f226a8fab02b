"""Indices of circular memories."""

from __future__ import annotations

from amaranth.hdl import Const, Mux, Signal, Value

__all__ = ["following", "wrapped"]


def following(index: Signal, depth: int) -> Value:
    """The index after ``index`` in a circular memory of ``depth`` entries."""
    if depth == 1 << len(index):
        return (index + 1)[: len(index)]
    return Mux(index == depth - 1, Const(0, len(index)), index + 1)


def wrapped(index: Value, depth: int) -> Value:
    """``index``, below twice ``depth``, in a circular memory of ``depth`` entries."""
    if depth & (depth - 1) == 0:
        return index & (depth - 1)
    return Mux(index >= depth, index - depth, index)

"""The operators of the golden machine that read and write cached keys and values, and which blocks of them a step chooses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..block_choice import attended_blocks, attended_position, candidates, summary_beats, summary_pages
from ..descriptors import Fetch
from ..formats import widen_bf16
from ..layout import KvBlockLayout
from ..rounding import ceil_div
from .attention import AttentionState, scores
from .int4 import e4m3_values
from .memories import Memories, ProgramError
from .operation import Operation
from .registers import Run

__all__ = ["KvCache"]


class KvCache(Memories):
    """ATTENTION and KV_WRITE."""

    def _attention(self, d: Operation) -> None:
        c, dim, group = self.config, d.head_vectors * self.config.width, d.heads // d.kv_heads
        self._check_whole_pass(d)
        if d.chooses != (d.fetch is Fetch.SUMMARY):
            raise ProgramError(f"operator {d.tag} ATTENTION must have fetch SUMMARY with CHOOSE, and only then, not {d.fetch.name}")
        if d.chooses:
            self._choose(d)
            return
        outputs = []
        for number, run in enumerate(self.registers.runs):
            q8, q_scale = self._queries(d, run)
            state = AttentionState.initial(q_scale.shape, dim)
            seen = run._replace(position=attended_position(c, run.position, run.budget))
            keys, values = self._blocks(d, seen, dim, self._attended(d, number, run) if run.budget else None)
            position = seen.position + torch.arange(run.tokens).repeat_interleave(group)
            slot = torch.arange(keys[1].shape[-2] * c.kv_block).reshape(-1, 1, c.kv_block)
            state.attend_blocks(q8, q_scale, keys, values, slot <= position[:, None])
            outputs.append(state.result().reshape(d.kv_heads, run.tokens, group * dim).transpose(0, 1).flatten(1))
        self._store(d, torch.cat(outputs))

    def _queries(self, d: Operation, run: Run) -> tuple[Tensor, Tensor]:
        """Of every key/value head ``[kv_heads, token * group + g, dim]``, and their scales."""
        tokens, dim, group = slice(run.first, run.first + run.tokens), d.head_vectors * self.config.width, d.heads // d.kv_heads

        def slots(heads: npt.NDArray[np.generic]) -> Tensor:
            """``[token, head, ...]`` -> ``[kv_head, token * group + g, ...]``."""
            parts = torch.from_numpy(heads.reshape(-1, d.kv_heads, group, *heads.shape[2:]))
            return parts.transpose(0, 1).flatten(1, 2)

        q8, q_scale = slots(self.query[tokens, : d.heads, :dim]), slots(self.query_scale[tokens, : d.heads])
        return (e4m3_values(q8.contiguous().view(torch.uint8)) if d.e4m3_query else q8), q_scale

    def _choose(self, d: Operation) -> None:
        """ATTENTION with CHOOSE. Of a run without a budget the machine reads what nobody looks at."""
        c, dim = self.config, d.head_vectors * self.config.width
        layout = KvBlockLayout(c, dim, d.format)
        size = summary_beats(c, layout)
        for number, run in enumerate(self.registers.runs):
            pages = range(-1, -1 - summary_pages(c, run.position), -1) if run.budget else range(1)
            beats = np.array([
                [self._segment(d, self._cache_address(d, run, head, page), size) for page in pages] for head in range(d.kv_heads)
            ])
            if not run.budget:
                continue
            scales = beats[:, :, : layout.header_beats].reshape(d.kv_heads, len(pages), -1).view(np.uint16)[..., : c.kv_block]
            summaries = torch.from_numpy(layout.split(0, beats[:, :, layout.beats_of(0)])), _widen(scales)
            q8, q_scale = self._queries(d, run)
            rows = scores(q8, q_scale, summaries).max(axis=-2)  # of the queries that share the head
            best = rows.reshape(d.kv_heads, -1, c.summary_rows).max(axis=-1)
            blocks = np.array(candidates(c, run.position))
            order = np.argsort(-best[:, blocks], axis=-1, kind="stable")[:, : run.budget]
            self.choice[number] = blocks[order].tolist()
        self._choice_address = d.stream_address

    def _attended(self, d: Operation, number: int, run: Run) -> list[list[int]]:
        """Cached blocks that a run with a budget attends to, by key/value head."""
        chosen = self.choice.get(number, [])
        if len(chosen) != d.kv_heads or self._choice_address != d.stream_address:
            raise ProgramError(
                f"operator {d.tag} ATTENTION must find what run {number} chose by an operator with CHOOSE, of the same "
                f"stream_address and {d.kv_heads} key/value heads"
            )
        return [attended_blocks(self.config, run.position, blocks) for blocks in chosen]

    def _check_whole_pass(self, d: Operation) -> None:
        if self.first or self.count != self.tokens:
            raise ProgramError(f"operator {d.tag} {d.opcode.name} must work on all {self.tokens} tokens, not {self.count}")

    def _cache_address(self, d: Operation, run: Run, head: int, block: int) -> int:
        return d.stream_address + self.registers.pages[run.pages + block] * d.stride + head * d.head_stride

    def _blocks(
        self, d: Operation, run: Run, dim: int, places: Sequence[Sequence[int]] | None = None
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Keys, values of all blocks of positions, of the cache and of this pass: int8 ``[kv_heads, blocks, kv_block, dim]`` and
        scales ``[kv_heads, blocks, kv_block]`` each. ``places``: those of :meth:`_cache_blocks`.
        """
        n, end = self.config.kv_block, run.position + run.tokens
        cached, blocks = ceil_div(run.position, n), ceil_div(end, n)
        elements = np.zeros((2, d.kv_heads, blocks, n, dim), np.int8)
        scales = np.zeros((2, d.kv_heads, blocks, n), np.uint16)
        if cached:
            self._cache_blocks(d, run, elements[:, :, :cached], scales[:, :, :cached], places)
        banks, own = slice(run.first, run.first + run.tokens), slice(run.position, end)
        elements.reshape(2, d.kv_heads, -1, dim)[:, :, own] = self.kv_store[:, banks, : d.kv_heads, :dim].swapaxes(1, 2)
        scales.reshape(2, d.kv_heads, -1)[:, :, own] = self.kv_scale[:, banks, : d.kv_heads].swapaxes(1, 2)
        keys, values = ((torch.from_numpy(elements[kind]), _widen(scales[kind])) for kind in range(2))
        return keys, values

    def _own_slots(self, run: Run, block: int) -> tuple[slice, slice]:
        """Tokens of the pass whose positions lie in a block, and their slots there."""
        first = block * self.config.kv_block
        low, high = max(run.position, first), min(run.position + run.tokens, first + self.config.kv_block)
        bank = run.first - run.position
        return slice(low + bank, max(low, high) + bank), slice(low - first, max(low, high) - first)

    def _cache_blocks(
        self, d: Operation, run: Run, elements: npt.NDArray[np.int8], scales: npt.NDArray[np.uint16],
        places: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """Fill in keys and values of the first blocks from memory, ``[2, kv_heads, blocks, kv_block, dim]``, and their scales, bf16
        bits ``[2, kv_heads, blocks, kv_block]``; of a slot that was never written, anything. ``places``: other blocks, by head.
        """
        c, layout, blocks = self.config, KvBlockLayout(self.config, elements.shape[-1], d.format), elements.shape[2]
        beats = np.array([
            [self._segment(d, self._cache_address(d, run, head, block), layout.beats) for block in of_head]
            for head, of_head in enumerate(places or [range(blocks)] * d.kv_heads)
        ])
        header = beats[:, :, : layout.header_beats].reshape(d.kv_heads, blocks, -1).view(np.uint16)
        scales[:] = header.reshape(d.kv_heads, blocks, 2, c.kv_block).transpose(2, 0, 1, 3)
        for kind in range(2):
            elements[kind] = layout.split(kind, beats[:, :, layout.beats_of(kind)])

    def _kv_write(self, d: Operation) -> None:
        c, dim = self.config, d.head_vectors * self.config.width
        layout = KvBlockLayout(c, dim, d.format)
        self._check_whole_pass(d)
        for run in self.registers.runs:
            for head in range(d.kv_heads):
                for block in range(run.position // c.kv_block, ceil_div(run.position + run.tokens, c.kv_block)):
                    banks, slots = self._own_slots(run, block)
                    beats = self._written_segment(self._cache_address(d, run, head, block), layout.beats)
                    header = beats[: layout.header_beats].reshape(-1).view(np.uint16).reshape(2, c.kv_block)
                    header[:, slots] = self.kv_scale[:, banks, head]
                    for kind in range(2):
                        data = beats[layout.beats_of(kind)].view(np.int8).reshape(-1, c.kv_block, c.key_bytes)
                        data[:, slots] = layout.join(kind, self.kv_store[kind, banks, head, :dim])


def _widen(bits: npt.NDArray[np.uint16]) -> Tensor:
    """bf16 bits -> the same values in float32."""
    return torch.from_numpy(widen_bf16(bits))

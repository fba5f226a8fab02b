"""What becomes of results that belong to rows of a vocabulary: candidates, logits in memory, scores and rows of the short list."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..descriptors import Flag
from ..layout import head_block_beats
from ..registers import PassFlag
from ..rounding import ceil_div
from .head import short_list, top_candidates
from .int4 import dequantize_rows
from .memories import Memories, ProgramError
from .operation import Operation
from .unpacked_weights import StationaryWeights

__all__ = ["Vocabulary"]

Logits = npt.NDArray[np.float32]


class Vocabulary(Memories):
    """HEAD, and what DRAIN does with SHORTLIST and CANDIDATES."""

    _weights: StationaryWeights

    def _rank(self, d: Operation, results: Tensor) -> None:
        """Results of DRAIN ``[active tokens, rows]``."""
        if Flag.SHORTLIST in d.flags:
            self.scores = self._extended(d, self.scores, results)
        if Flag.CANDIDATES in d.flags:
            self.logits = self._extended(d, self.logits, results)
            rows = np.arange(d.stride, min(d.stride + results.shape[1], d.head_stride))
            for token, logits in enumerate(results.numpy()):
                if d.stride == 0:
                    self.registers.candidates[self.first + token] = []
                self._add_candidates(self.first + token, rows, logits[: len(rows)])
            if PassFlag.WRITE_LOGITS in self.registers.options:
                self._write_logits(d, results)

    def _extended(self, d: Operation, known: Logits, results: Tensor) -> Logits:
        """``known [wanted token, row]`` with rows from ``stride`` on; with row 0 they begin anew."""
        if known.shape[1] != d.head_stride:
            known = np.full((self.config.chunk, d.head_stride), -np.inf, np.float32)
        lists = known[self.first : self.first + self.count]
        if d.stride == 0:
            lists[:] = -np.inf
        rows = results.numpy()[:, : d.head_stride - d.stride]
        lists[:, d.stride : d.stride + rows.shape[1]] = rows
        return known

    def _add_candidates(self, token: int, rows: npt.NDArray[np.int64], logits: Logits) -> None:
        """Later rows behind those that are there, of equal logits too."""
        found, most = self.registers.candidates[token], self.config.topk
        if len(found) == most:  # most rows are of no panel's best
            near = np.flatnonzero(logits > found[-1][1])
            rows, logits = rows[near], logits[near]
        elif len(logits) > most:
            best, values = top_candidates(torch.from_numpy(logits), most)
            rows, logits = rows[best.numpy()], values.numpy()
        if len(logits):
            merged = found + list(zip(rows.tolist(), logits.tolist(), strict=True))
            self.registers.candidates[token] = sorted(merged, key=lambda candidate: -candidate[1])[:most]

    def _write_logits(self, d: Operation, results: Tensor) -> None:
        size = 4 * results.shape[1]
        if size % self.config.beat_bytes:
            raise ProgramError(f"operator {d.tag} DRAIN with CANDIDATES must have whole beats of logits, not {size} bytes")
        for token, logits in enumerate(results.numpy()):
            address = self.registers.logits + d.stream_address + token * d.stream_beats * self.config.beat_bytes
            self._written_segment(address, size // self.config.beat_bytes).reshape(-1)[:] = logits.view(np.uint8)

    def _head(self, d: Operation) -> None:
        """Logits of the blocks in the short list; the others are unknown, and none are written to memory. Of equal logits the
        one that comes first in the list's order goes first.
        """
        c, n = self.config, d.vectors * self.config.width
        if self.count != 1:
            raise ProgramError(f"operator {d.tag} HEAD must have one token, not {self.count}")
        entries = min(c.shortlist, ceil_div(d.stride, c.kv_block))
        scored = self.scores[self.first]
        if d.row_blocks != entries or scored.size != d.stride:
            raise ProgramError(
                f"operator {d.tag} HEAD must have {entries} blocks of {scored.size} scored rows, "
                f"not {d.row_blocks} of {d.stride}"
            )
        rows, logits = [], []
        q, scale = self.head_query[None, :n], torch.from_numpy(self.head_scale)
        for block in short_list(torch.from_numpy(scored), c.kv_block, entries).tolist():
            address = d.stream_address + block * d.head_stride
            size = min(c.kv_block, d.stride - block * c.kv_block)
            panel, row_scale = self._weights.head(address, self._segment(d, address, head_block_beats(c, n)), n, size)
            logits.append(dequantize_rows(torch.from_numpy(panel.products(q)), scale, row_scale)[0].numpy())
            rows.append(block * c.kv_block + np.arange(size))
        self.registers.candidates[self.first] = []
        self._add_candidates(self.first, np.concatenate(rows), np.concatenate(logits))

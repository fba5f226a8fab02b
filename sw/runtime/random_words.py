"""Random numbers of a seed, made ahead: a call of numpy for a few of them costs a hundred times what the numbers do."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["AHEAD", "CLOSE", "WORD", "RandomWords"]

#: Words of 64 bits made at a time, at least.
AHEAD = 4096

#: Bits of the half of one.
WORD = 32

#: A half is small where the fraction that it is, without its lower bits, is at most this negative power of e.
CLOSE = 6.0


class RandomWords:
    """The 64-bit words that ``numpy.random.default_rng(seed)`` makes, one after the other, however they are asked for."""

    def __init__(self, seed: int) -> None:
        self._make = np.random.default_rng(seed).bit_generator.random_raw
        self._bits = 0
        self._keep(np.zeros(0, np.uint64))

    def _keep(self, words: npt.NDArray[np.uint64]) -> None:
        #: Words that were made, their halves, and how many words are used; of the halves the lower bits, and which are small, once
        #: that is asked for.
        self._words, self._halves, self._used = words, words.view(np.uint32), 0
        self._lower, self._small = np.zeros(0, np.intp), np.zeros(0, np.bool_)

    def take(self, count: int) -> npt.NDArray[np.uint64]:
        """The next words. Nobody writes there."""
        left = self._words.size - self._used
        if count > left:
            self._keep(np.concatenate((self._words[self._used :], self._make(max(AHEAD, count - left)))))
        self._used += count
        return self._words[self._used - count : self._used]

    def random(self) -> float:
        """The next word as a number from 0 up to, but not with, 1: what ``Generator.random`` makes of it."""
        if self._used == self._words.size:
            self._keep(self._make(AHEAD))
        self._used += 1
        return (self._words.item(self._used - 1) >> 11) * 2.0**-53

    def halves(self, count: int, bits: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """The next halves of words, of each its lower ``bits``, and whether it is small. Of an odd ``count`` one half is passed
        over.
        """
        words = (count + 1) // 2
        self.take(words)
        if bits != self._bits or self._lower.size != self._halves.size:
            least = (int(math.exp(-CLOSE) * (1 << WORD - bits)) + 1) << bits  # that is not small
            self._bits, self._small = bits, self._halves < np.uint32(least)
            self._lower = (self._halves & np.uint32((1 << bits) - 1)).astype(np.intp)
        first = 2 * (self._used - words)
        part = slice(first, first + count)
        return self._halves[part], self._lower[part], self._small[part]

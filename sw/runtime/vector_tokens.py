"""Vectors in place of tokens: rows that the host puts where a pass reads the embedding of its tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError
from ...formats import pack_bf16

__all__ = ["PLACE", "VectorToken", "as_words", "with_vectors"]

#: Stands in a list of token ids where a vector belongs.
PLACE = -1


class VectorToken(int):
    """A token that stands for one vector: a negative number that follows from the vector's bits, so that sequences with equal
    vectors, and no others, are equal. It has the bf16 ``bits [hidden]`` with it.
    """

    bits: npt.NDArray[np.uint16]

    def __new__(cls, bits: npt.NDArray[np.uint16]) -> VectorToken:
        digest = int.from_bytes(hashlib.sha256(bits.tobytes()).digest()[:8], "little")
        token = super().__new__(cls, -2 - (digest >> 2))
        token.bits = bits
        return token


def as_words(tokens: Sequence[int]) -> list[int]:
    """Those of ``tokens`` that the vocabulary has."""
    return [token for token in tokens if not isinstance(token, VectorToken)]


def _rows(vectors: npt.ArrayLike, hidden: int) -> Iterator[VectorToken]:
    rows = np.asarray(vectors, np.float32)
    if rows.ndim != 2 or rows.shape[1] != hidden or not rows.size:
        raise HwgenError(
            "usage", f"embeddings must be [vectors, {hidden}], not {list(rows.shape)}", f"give vectors of {hidden} elements each"
        )
    if not np.isfinite(rows).all():
        raise HwgenError("usage", "embeddings must be finite", "give numbers")
    return map(VectorToken, pack_bf16(rows))


def with_vectors(prompt: Sequence[int], vectors: npt.ArrayLike, hidden: int, first: int = 0) -> list[int]:
    """A prompt with ``vectors [n, hidden]``, rounded to bfloat16: in its places (`PLACE`) in their order, or, where it has none,
    all behind its first ``first`` tokens.
    """
    rows, places = list(_rows(vectors, hidden)), prompt.count(PLACE)
    if not places:
        return [*prompt[:first], *rows, *prompt[first:]]
    if places != len(rows):
        raise HwgenError(
            "usage", f"the prompt has {places} places (-1) for {len(rows)} embeddings", "give as many of the one as of the other"
        )
    taken = iter(rows)
    return [next(taken) if token == PLACE else token for token in prompt]

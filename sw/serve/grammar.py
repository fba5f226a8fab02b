"""Answers that have the form of a JSON schema: the library ``llguidance`` says which tokens may come next."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...packages import needs
from ..models.tokenizer import Tokenizer
from .errors import ApiError

__all__ = ["JsonGrammar"]


class JsonConstraint:
    """One answer. See :class:`hwgen.sw.runtime.generation.Constraint`."""

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary

    def allowed(self) -> npt.NDArray[np.bool_]:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise ValueError(f"the grammar failed: {self._matcher.get_error()}")
        return np.unpackbits(bits, bitorder="little")[: self._vocabulary].astype(bool)

    def accept(self, token: int) -> bool:
        if not self._matcher.consume_token(token):
            raise ValueError(f"the grammar failed: {self._matcher.get_error()}")
        return bool(self._matcher.is_stopped())


class JsonGrammar:
    """Makes constraints for the tokens of one model."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, stop_tokens: Sequence[int]) -> None:
        self._tokenizer, self._vocabulary, self._stops = tokenizer, vocabulary, list(stop_tokens)
        self._lock = threading.Lock()
        self._tokens: Any = None

    def constraint(self, schema: dict[str, Any], param: str) -> JsonConstraint:
        """For one answer; a schema that cannot be enforced is refused in the name of ``param``. Without white space between its
        tokens, of which a small model would write any amount.
        """
        with needs("an answer of given form", "hwgen[json]"):
            from llguidance import LLMatcher, LLTokenizer

        with self._lock:
            if self._tokens is None:
                self._tokens = LLTokenizer(self._tokenizer.to_json(), n_vocab=self._vocabulary, eos_token=self._stops or None)
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults={"whitespace_flexible": False})
        except ValueError as error:
            raise ApiError.refused(param, f"this schema cannot be enforced: {error}") from error
        matcher = LLMatcher(self._tokens, grammar, log_level=0)
        if matcher.is_error():
            raise ApiError.refused(param, f"this schema cannot be enforced: {' '.join(matcher.get_error().split())[:400]}")
        return JsonConstraint(matcher, self._vocabulary)

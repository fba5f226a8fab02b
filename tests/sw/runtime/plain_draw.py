"""The definition of a draw, plain and slow: the vocabulary sorted, tokens looked at one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hwgen.sw.runtime.candidate_draw import BLOCK, MOST, WORD
from hwgen.sw.runtime.prediction import Prediction
from hwgen.sw.runtime.sampling import Sampling

__all__ = ["adjusted", "by_definition", "by_sorting", "predicted"]


def predicted(logits: np.ndarray, count: int = 8) -> Prediction:
    """As the machine predicts, with so many candidates."""
    best = np.argsort(-logits, kind="stable")[:count]
    return Prediction(best.tolist(), logits[best].view(np.uint32).tolist(), logits.size, lambda: logits)


def adjusted(s: Sampling, logits: np.ndarray, seen: Sequence[int], answer: Sequence[int]) -> dict[int, float]:
    """Logits that penalties and biases change, in the order in which they are found."""
    tokens = [*s.logit_bias, *(seen if s.repetition_penalty != 1 else ())]
    tokens += answer if s.presence_penalty or s.frequency_penalty else ()
    result = {}
    for token in dict.fromkeys(tokens):
        old, times = float(logits[token]), list(answer).count(token)
        if token in seen and s.repetition_penalty != 1:
            old = old / s.repetition_penalty if old > 0 else old * s.repetition_penalty
        minus = (s.presence_penalty + s.frequency_penalty * times if times else 0.0) - s.logit_bias.get(token, 0.0)
        result[token] = float(np.float32(old - minus))
    return result


def kept(s: Sampling, scores: dict[int, float]) -> tuple[list[int], np.ndarray]:
    """Tokens that top-k, min-p and top-p leave, likely ones first, and their probabilities."""
    order = sorted(scores, key=lambda token: (-scores[token], token))[: s.top_k or None]
    weights = np.array([math.exp((scores[token] - scores[order[0]]) / s.temperature) for token in order])
    count = int((weights >= s.min_p).sum()) if s.min_p else len(order)
    order, weights = order[:count], weights[:count] / weights[:count].sum()
    if s.top_p < 1:
        count = int(np.searchsorted(np.cumsum(weights), s.top_p)) + 1
        order, weights = order[:count], weights[:count] / weights[:count].sum()
    return order, weights


def drawn(tokens: list[int], weights: list[float], random: np.random.Generator) -> int:
    """One of ``tokens``, by their weights."""
    sums = np.cumsum(weights)
    return tokens[min(int(np.searchsorted(sums, random.random() * sums[-1], side="right")), len(tokens) - 1)]


def by_sorting(s: Sampling, scores: dict[int, float], random: np.random.Generator) -> int:
    """A draw of what is left."""
    order, weights = kept(s, scores)
    return drawn(order, weights.tolist(), random)


def by_definition(
    s: Sampling, logits: np.ndarray, random: np.random.Generator, count: int, seen: Sequence[int] = (), answer: Sequence[int] = (),
) -> int:
    """A draw with ``count`` candidates."""
    best = np.argsort(-logits, kind="stable")[:count].tolist()
    changed = adjusted(s, logits, seen, answer)
    scores = dict(enumerate(logits.tolist())) | changed
    least = min(s.repetition_penalty - 1, s.presence_penalty, s.frequency_penalty, *[-bias for bias in s.logit_bias.values()])
    lowers = least >= 0
    known = {t: scores[t] for t in best if lowers or t not in changed}
    if not lowers:
        known = changed | known
    if s.top_k or s.top_p < 1 or lowers:
        known = {t: known[t] for t in sorted(known, key=lambda t: (-known[t], t))}
    last = best[-1]
    sure = [t for t, score in known.items() if score > logits[last] or (score == logits[last] and t <= last)]
    top = max(max(known.values()), float(logits[last]))
    weights = [math.exp((score - top) / s.temperature) for score in known.values()]
    bound = math.exp((float(logits[last]) - top) / s.temperature)
    unknown_best = s.min_p > 0 and max(known.values()) < logits[last]
    ordered = s.top_k > 0 or s.top_p < 1
    closed = len(best) == logits.size or bound < s.min_p or 0 < s.top_k <= len(sure)
    if ordered and closed or (unknown_best and len(best) < logits.size):
        return by_sorting(s, scores, random)
    weights = [w if w >= s.min_p else 0.0 for w in weights]
    left, total, token = kept(s, scores)[0], sum(weights), None
    if closed:
        return drawn(list(known), weights, random)
    places = 1 << (logits.size - 1).bit_length()
    looks = math.log1p(-random.random()) / -math.log1p(total / (places * bound)) if bound else 0.0
    words: list[int] = []
    for number in range(int(min(looks, MOST))):
        if number % BLOCK == 0:
            if token is not None:
                break
            size = min(BLOCK, int(min(looks, MOST)) - number)
            raw = random.bit_generator.random_raw((size + 1) // 2)
            words = [word >> shift & 2**WORD - 1 for word in raw.tolist() for shift in (0, WORD)]
        fraction, look = divmod(words[number % BLOCK], places)
        if token is not None or look >= logits.size or look in known:
            continue
        weight = math.exp(min(0.0, (scores[look] - float(logits[last])) / s.temperature))
        parts = weight * (2**WORD / places)
        if bound * weight >= s.min_p and (fraction + 1 <= parts or (fraction < parts and random.random() < parts - fraction)):
            token = look
    if token is None and looks >= MOST:
        return by_sorting(s, scores, random)
    if token is None:
        token = drawn(list(known), weights, random)
    return token if token in left else by_sorting(s, scores, random)

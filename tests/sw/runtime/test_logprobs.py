from __future__ import annotations

import numpy as np

from hwgen.sw.runtime.logprobs import token_logprobs

LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))


def test_logprobs() -> None:
    result = token_logprobs(LOGITS + np.float32(7), 3, 2)
    assert [token for token, _ in result.top] == [0, 1]
    np.testing.assert_allclose([result.logprob, *(x for _, x in result.top)], np.log([0.1, 0.5, 0.25]), atol=1e-5)
    assert token_logprobs(LOGITS, 0, 0).top == ()

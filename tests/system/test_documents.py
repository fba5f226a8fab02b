"""Documents in RTL: keys and values put into the cache by the host, and tokens in the middle of a sequence computed again."""

from __future__ import annotations

import numpy as np

from hwgen.sim.dram import RANDOM
from hwgen.sw.devices.device import Device
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.document_passes import place_documents
from hwgen.sw.runtime.documents import DocumentStore, compute_document
from hwgen.sw.runtime.engine import Engine, Run
from hwgen.sw.runtime.kv_arrays import unpack_pages, with_cache_tokens
from hwgen.sw.runtime.pages import Session

from .small import CONFIG, MEMORY_BYTES, SHAPE, SmallDevice, small_image

TOKENS = [int(t) for t in np.random.default_rng(6).integers(0, SHAPE.vocab, 30)]

#: What stands in front of the first text, the texts, and one token between them.
FIRST, SECOND = slice(3, 13), slice(14, 25)


def outcome(device: Device) -> list[bytes]:
    """Caches of a prompt with two documents whose share was computed again; of one as they were taken over, before and after a
    pass of runs of it beside another sequence; and the logits behind both.
    """
    engine, store = Engine(device, with_cache_tokens(small_image(), 3 * CONFIG.max_context)), DocumentStore()
    found: list[bytes] = []
    session, plain, other = Session(), Session(), Session()
    for number, place in enumerate((FIRST, SECOND)):
        store.add(compute_document(engine, str(number), TOKENS[place], TOKENS[:2]))

    def keep(session: Session) -> None:
        kv = unpack_pages(engine.image, engine.pages.read(session.pages), session.position)
        found.extend([kv.elements.tobytes(), kv.scales.tobytes()])

    placement = place_documents(engine, session, TOKENS, store, 0.4)
    assert (placement.tokens, placement.placed) == (25, 21) and 9 <= placement.recomputed <= 21
    keep(session)
    place_documents(engine, plain, TOKENS, store, 0)
    keep(plain)
    runs = [Run(plain, TOKENS[4:5], at=4), Run(plain, TOKENS[6:8], at=6), Run(plain, TOKENS[19:21], at=19)]
    engine.run_pass([*runs[:2], Run(other, [7], 1), runs[2]], write_logits=True)
    found.append(engine.logits().tobytes())
    keep(plain)
    for behind in (session, plain):
        engine.prefill(behind, TOKENS[25:], write_logits=True)
        found.append(engine.logits().tobytes())
    return found


def test_tokens_in_the_middle_of_a_sequence() -> None:
    device = SmallDevice(RANDOM(6))
    found = outcome(device)
    assert found == outcome(GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES))
    shared, taken, again = found[0], found[2], found[5]
    assert len({shared, taken, again}) == 3 and found[-1] != found[-2], "what was done makes a difference"
    assert device.clean()

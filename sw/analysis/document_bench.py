"""What documents that were computed once save, and what they cost: ``python -m hwgen.sw.analysis.document_bench``.

Quality: `QUESTIONS` has twenty questions over three made-up documents, and what ``smollm2`` makes of the answers on the golden
device, with the documents in front of the question in three orders, and with their paragraphs, each a document by itself, in two:
the logarithm of the probability of each answer, with the whole prompt computed, with the documents taken over as they are, and with
a share of their tokens computed again; the last two also with all documents as they are at the beginning of a prompt, *plain*.
``--record`` computes all of it anew, in three quarters of an hour.

Time: cycles to the first token of `CACHED` tokens of documents and `NEW` others, estimated by the model of a pass. What the host
does for a document (keys turned, pages packed and written) is not in them; it is timed on this computer.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from ...boards import load_board
from ...published import published_model
from ..compiler.image import Image
from ..compiler.pass_model import PassModel
from ..runtime.document_passes import LOOKED_AT, SPAN, place_documents
from ..runtime.documents import Computed, Document, DocumentStore
from ..runtime.engine import Engine, Run
from ..runtime.kv_arrays import KvArrays
from ..runtime.llm import LLM
from ..runtime.logprobs import token_logprobs
from ..runtime.pages import Session
from .estimate import planned_image

__all__ = ["QUESTIONS", "first_token_cycles", "main", "quality"]

#: Documents, questions with their answers, and what was recorded.
QUESTIONS = Path(__file__).with_name("document_questions.json")

MODEL, SHAPE, BOARD = "smollm2", "smollm2-135m", "kv260"

#: Orders of the documents, and of their paragraphs.
ORDERS = {"documents": ((0, 1, 2), (1, 2, 0), (2, 0, 1)), "paragraphs": (tuple(range(14)), tuple(reversed(range(14))))}

#: Shares of the documents' tokens that are computed again, with 1 the whole prompt; and whether documents are as they were computed
#: at the beginning of a prompt, wherever they stand.
WAYS = ((1.0, False), (0.0, True), (0.15, True), (0.0, False), (0.15, False))

#: Tokens of documents, and of the rest of the prompt, whose time is estimated.
CACHED, NEW = 1024, 64


def first_token_cycles(image: Image, cached: int, new: int, share: float) -> float:
    """Cycles to the first token of ``cached`` tokens of documents and ``new`` ones behind them. Spans that are computed again lie
    apart, evenly: as many runs as there can be.
    """
    whole, chunk = PassModel.of_program(image.config, image.descriptors, image.chunk), image.chunk

    def passes(model: PassModel, first: int, end: int, wanted: int = 0) -> float:
        starts = range(first, end, chunk)
        return sum(model.run(min(chunk, end - at), at, wanted=wanted * (at == starts[-1])).cycles for at in starts)

    if share == 1:
        return passes(whole, 0, cached + new, 1)
    cycles = passes(whole, cached, cached + new, 1)
    if share:
        cycles += passes(PassModel.of_program(image.config, image.first_layers(LOOKED_AT), chunk), 0, cached)
        spans = ceil(share * cached / SPAN)
        places = [cached * i // spans for i in range(spans)]
        together = chunk // SPAN
        for i in range(0, spans, together):
            cycles += whole.run_runs([(at, SPAN) for at in places[i : i + together]], 0).cycles
    return cycles


# ---- quality -----------------------------------------------------------------------------------------------------
def answer_nats(engine: Engine, session: Session, question: Sequence[int], answer: Sequence[int]) -> float:
    """Negative logarithm of the probability of an answer behind what a session has and a question."""
    own = engine.pages.share(session, session.position)
    tokens, chunk, nats = [*question, *answer], engine.image.chunk, 0.0
    try:
        for first in range(0, len(tokens) - 1, chunk):
            part = tokens[first : min(first + chunk, len(tokens) - 1)]
            wanted = max(0, min(len(part), first + len(part) - len(question) + 1))
            engine.run_pass([Run(own, part, wanted)], write_logits=wanted > 0)
            for number in range(wanted):
                following = tokens[first + len(part) - wanted + number + 1]
                nats -= token_logprobs(engine.logits(number), following, 0).logprob
    finally:
        engine.pages.close(own)
    return nats


def texts_of(documents: Sequence[str]) -> dict[str, list[str]]:
    """The documents, and their paragraphs."""
    return {
        "documents": list(documents),
        "paragraphs": [f"{part}\n\n" for document in documents for part in document.strip().split("\n\n")],
    }


def record(progress: Callable[[str], None]) -> None:
    """Score every answer on the golden device, and write what came of it."""
    content: dict[str, Any] = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    llm = LLM(MODEL, "golden", BOARD, progress, reuse=False, draft="none")
    tokenizer, engine = llm.model.tokenizer, llm.engine
    beginning = tokenizer.usual_beginning
    behind = tokenizer.encode_chat("a")[len(beginning) + len(tokenizer.encode_text("a")) :]
    questions = [([*tokenizer.encode_text(f"Question: {row['question']}"), *behind], tokenizer.encode_text(row["answer"]))
                 for row in content["questions"]]
    recorded: list[dict[str, Any]] = []
    for kind, texts in texts_of(content["documents"]).items():
        documents = [llm.document(text) for text in texts]
        for order, (share, plain) in itertools.product(ORDERS[kind], WAYS):
            store = DocumentStore()
            for d in documents:
                store.add(Document(d.text, d.tokens, d.computed[:1]) if plain else d)
            tokens = [*beginning, *(token for i in order for token in documents[i].tokens)]
            session = Session()
            # one token more, so that the last document is taken over whole
            placement = place_documents(engine, session, [*tokens, *behind[:1]], store, share)
            if session.position < len(tokens):
                engine.prefill(session, tokens[session.position :])
            nats = [round(answer_nats(engine, session, *question), 4) for question in questions]
            engine.pages.close(session)
            recorded.append({
                "texts": kind, "order": order, "share": share, "plain": plain, "tokens": len(tokens), "placed": placement.placed,
                "recomputed": placement.recomputed, "nats": nats,
            })
            progress(f"{kind} in order {order}, share {share:g}{', plain' * plain}: {sum(nats):.2f} nats")
    content["recorded"] = recorded
    rows = {name: ",\n".join(json.dumps(row, ensure_ascii=False) for row in content[name]) for name in content}
    QUESTIONS.write_text(
        "{" + ",\n".join(f'"{name}": [\n{text}\n]' for name, text in rows.items()) + "}\n", encoding="utf-8"
    )


def quality(recorded: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By texts and way: nats of all answers in all orders, how far that is from the whole prompt's, and the same of the orders in
    which it is least and most.
    """
    whole = {(row["texts"], *row["order"]): sum(row["nats"]) for row in recorded if row["share"] == 1}
    result = []
    for key in dict.fromkeys((row["texts"], row["share"], row["plain"]) for row in recorded):
        rows = [row for row in recorded if (row["texts"], row["share"], row["plain"]) == key]
        sums = {(row["texts"], *row["order"]): sum(row["nats"]) for row in rows}
        apart = [sums[order] / whole[order] - 1 for order in sums]
        total = sum(sums.values())
        result.append({
            "texts": key[0], "share": key[1], "plain": key[2], "nats": total,
            "apart": total / sum(whole[order] for order in sums) - 1, "least": min(apart), "most": max(apart),
        })
    return result


def host_seconds(image: Image, tokens: int) -> list[float]:
    """Of this computer: what the host does for ``tokens`` tokens of a document, first at a new position, then at the same again.
    Pages are written to memory of the host.
    """
    shape = 2, image.shape.layers, image.shape.kv_heads, tokens
    random = np.random.default_rng(0)
    arrays = KvArrays(
        random.integers(-127, 128, (*shape, image.shape.head_dim), np.int8), random.integers(0x3C00, 0x3D00, shape, np.uint16)
    )
    document = Document("", (), (Computed(0, arrays),))
    seconds: list[float] = []
    for _ in range(2):
        begin = time.process_time()
        pages, _ = document.at(image, 1, LOOKED_AT - 1)
        pages.copy()
        seconds.append(time.process_time() - begin)
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m hwgen.sw.analysis.document_bench", description=__doc__)
    parser.add_argument("--record", action="store_true", help="score the answers on the golden device again")
    options = parser.parse_args(arguments)

    def progress(text: str) -> None:
        print(text, flush=True)

    if options.record:
        record(progress)
    content = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    print(f"{MODEL}, {len(content['questions'])} questions over {len(content['documents'])} documents, golden device")
    for row in quality(content["recorded"]):
        print(
            f"{row['texts']:10} share {row['share']:4.2f}{', plain' if row['plain'] else '':7}: {row['nats']:8.2f} nats of all "
            f"answers, {row['apart']:+.2%} of the whole prompt's (an order {row['least']:+.2%} to {row['most']:+.2%})"
        )
    published = published_model(SHAPE)
    config = load_board(BOARD).for_engine(published.engine).config
    image = planned_image(config, published.shape, published.engine, layer=published.layer)
    full = first_token_cycles(image, CACHED, NEW, 1.0)
    print(f"{CACHED} tokens of documents and {NEW} more on {BOARD}; cycles to the first token, estimated, without the host's work")
    for share in (1.0, 0.3, 0.15, 0.0):
        cycles = first_token_cycles(image, CACHED, NEW, share)
        seconds = cycles / config.clock_mhz / 1e6
        print(f"share {share:4.2f}: {cycles:13,.0f} cycles, {seconds:.4f} s; {full / cycles:.2f} times less")
    first, again = host_seconds(image, CACHED)
    print(f"host: {1e3 * first:.0f} ms of this computer for a document at a new position, {1e3 * again:.0f} ms at the same again")


if __name__ == "__main__":
    main()

"""Training of small BitNet b1.58 story models from a text file: tokenizer, model, checkpoint, resumable."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import HwgenError
from ...files import replacing
from ...golden.float_bitnet import BitNet
from ...shape import ModelShape
from ...weights import ModelWeights
from ..models.bitnet import save_model, weights_from_state
from .documents import open_tokenizer, read_documents

__all__ = ["STORY_SHAPE", "Recipe", "evaluate", "export_training", "train"]

#: The shipped story model: the 2B4T layer (grouped queries, squared ReLU, sub-norms) in 2.56 M parameters.
STORY_SHAPE = ModelShape(
    hidden=192, layers=6, heads=6, kv_heads=2, head_dim=32, ffn=512, vocab=1024, activation="relu2", max_context=512
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that fixes a training run besides its text.

    Two-dimensional weights inside the layers are trained with Muon (orthogonalised momentum), embedding and norms
    with AdamW; the rate warms up, stays, and falls linearly to zero over the last part of the run.
    """

    #: Optimiser steps.
    steps: int = 2040
    #: Tokens in one sequence; the last ``long_fraction`` of the steps uses twice that (and half the batch).
    length: int = 256
    #: Sequences in one step.
    batch: int = 32
    #: Peak rate of Muon (scaled to match the update size of AdamW).
    muon_rate: float = 5e-3
    #: Peak rate of AdamW.
    adam_rate: float = 4e-3
    #: Weight decay of the two-dimensional weights.
    decay: float = 0.05
    #: Share of the steps spent warming up, and falling.
    warmup: float = 0.02
    cooldown: float = 0.6
    #: Share of the steps, at the end, with sequences of twice the length.
    long_fraction: float = 0.17
    seed: int = 1

    def rate(self, step: int) -> float:
        """Multiplier of the peak rates at ``step``."""
        rise = (step + 1) / max(1.0, self.warmup * self.steps)
        fall = (self.steps - step) / max(1.0, self.cooldown * self.steps)
        return min(1.0, rise, fall)


def encode_documents(tokenizer: Any, documents: list[str]) -> Tensor:
    """All documents as one row of token ids, each begun by ``<|endoftext|>``."""
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(documents, add_special_tokens=False):
        ids.append(0)
        ids.extend(encoding.ids)
    return torch.tensor(ids, dtype=torch.int64)


def evaluate(model: BitNet, tokens: Tensor, window: int, batch: int = 16) -> float:
    """Mean negative log-likelihood in nats a token over consecutive windows of ``window`` tokens."""
    model.eval()
    total, count = 0.0, 0
    starts = range(0, len(tokens) - 1, window)
    with torch.no_grad():
        for s in range(0, len(starts), batch):
            rows = [tokens[i : i + window + 1] for i in starts[s : s + batch]]
            for size in {len(r) for r in rows}:
                same = torch.stack([r for r in rows if len(r) == size])
                logits = model(same[:, :-1])
                total += F.cross_entropy(logits.flatten(0, 1), same[:, 1:].flatten(), reduction="sum").item()
                count += same[:, 1:].numel()
    model.train()
    return total / count


def optimizers(model: BitNet, recipe: Recipe) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.model.layers.named_parameters() if p.dim() == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices,
            lr=recipe.muon_rate,
            weight_decay=recipe.decay,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(rest, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def batches(tokens: Tensor, recipe: Recipe, first_step: int) -> Iterator[tuple[int, Tensor]]:
    """``(step, tokens [batch, length + 1])`` with random offsets that depend on seed and step alone."""
    long_from = int(recipe.steps * (1.0 - recipe.long_fraction))
    for step in range(first_step, recipe.steps):
        scale = 2 if step >= long_from else 1
        length, batch = recipe.length * scale, recipe.batch // scale
        draw = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        starts = torch.randint(0, len(tokens) - length - 1, (batch,), generator=draw)
        yield step, torch.stack([tokens[s : s + length + 1] for s in starts.tolist()])


@dataclass(frozen=True)
class TrainingState:
    """The file from which a run goes on: weights, optimisers and steps done of the run that ``signature`` names."""

    path: Path
    model: BitNet
    optimizers: list[torch.optim.Optimizer]
    signature: str

    def load(self) -> int:
        """Steps done so far; none without a file. :class:`ValueError` for that of another run."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path, weights_only=True)
        if state["signature"] != self.signature:
            raise ValueError(f"{self.path} belongs to another recipe; delete it or choose another --out")
        self.model.load_state_dict(state["model"])
        for opt, saved in zip(self.optimizers, state["optimizers"], strict=True):
            opt.load_state_dict(saved)
        return int(state["step"])

    def save(self, step: int) -> None:
        """Replace the file as one."""
        states = [o.state_dict() for o in self.optimizers]
        with replacing(self.path) as part:
            torch.save({"signature": self.signature, "model": self.model.state_dict(), "optimizers": states, "step": step}, part)


def take_step(run: Callable[[Tensor], Tensor], model: BitNet, opts: list[torch.optim.Optimizer], batch: Tensor) -> float:
    """One step of ``model``, which ``run`` computes, on ``batch [batch, length + 1]``; the loss before it, in nats a token."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = run(batch[:, :-1])
    loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no type here
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for opt in opts:
        opt.step()
        opt.zero_grad(set_to_none=True)
    return loss.item()


def train(
    shape: ModelShape,
    recipe: Recipe,
    text: Path,
    out: Path,
    *,
    validation: Path | None = None,
    compile_model: bool = True,
    report: Callable[[dict[str, float]], None] = lambda row: None,
    every: int = 100,
) -> dict[str, float]:
    """Train (or resume) a model in ``out``; returns the last report row.

    ``out/tokenizer.json`` and ``out/train_state.pt`` are written as training goes (the state atomically, every
    ``every`` steps), so a run that was stopped continues where it was when called again with the same arguments.
    """
    out.mkdir(parents=True, exist_ok=True)
    documents = read_documents(text)
    tokenizer = open_tokenizer(out / "tokenizer.json", documents, shape.vocab)
    tokens = encode_documents(tokenizer, documents)
    held_out, held_bytes = None, 0
    if validation is not None:
        held = read_documents(validation)
        held_out, held_bytes = encode_documents(tokenizer, held), sum(len(d.encode()) + 1 for d in held)

    torch.manual_seed(recipe.seed)
    model = BitNet(shape)
    opts = optimizers(model, recipe)
    state = TrainingState(out / "train_state.pt", model, opts, json.dumps([asdict(recipe), shape.to_dict()], sort_keys=True))
    run = torch.compile(model) if compile_model else model
    row: dict[str, float] = {}
    begin = time.monotonic()
    for step, batch in batches(tokens, recipe, state.load()):
        for opt, peak in zip(opts, (recipe.muon_rate, recipe.adam_rate), strict=True):
            for group in opt.param_groups:
                group["lr"] = peak * recipe.rate(step)
        loss = take_step(run, model, opts, batch)
        done = step + 1
        if done % every == 0 or done == recipe.steps:
            row = {"step": done, "steps": recipe.steps, "loss": loss, "seconds": time.monotonic() - begin}
            if held_out is not None:
                nats = evaluate(model, held_out, shape.max_context)
                row["held_out_nats"] = nats
                row["held_out_bits_per_byte"] = nats * len(held_out) / math.log(2) / held_bytes
            report(row)
            state.save(done)
    return row


def export_training(run: Path, out: Path) -> ModelWeights:
    """Export the newest state of a training directory (``hwgen train --out``) to directory ``out``."""
    state_file = run / "train_state.pt"
    if not state_file.exists():
        raise HwgenError("checkpoint", f"{state_file} is missing", "give the directory that `hwgen train` wrote")
    saved = torch.load(state_file, weights_only=True, map_location="cpu")
    shape = ModelShape(**json.loads(saved["signature"])[1])
    state = {name: value.float().numpy() for name, value in saved["model"].items()}
    weights = weights_from_state(shape, state)
    # documents begin and end with token 0, <|endoftext|>
    save_model(weights, out, run / "tokenizer.json", end_token=0)
    return weights

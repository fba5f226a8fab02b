"""The Python interface: ``LLM("stories", device="verilator").generate("Once upon a time")``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ...boards import load_board
from ...config import BuildConfig
from ..compiler.compile import compile_model
from ..devices.device import Device
from ..devices.open import open_device
from ..models.model import Model
from ..models.open import open_model
from ..models.tokenizer import TextStream
from .engine import Engine
from .generation import Generation
from .kv_arrays import with_cache_tokens
from .pages import Session
from .prefix_cache import PrefixCache
from .sampling import Sampler, Sampling
from .session_file import load_session, save_session

__all__ = ["Answer", "LLM"]


class Answer:
    """A running answer: iterate over it for pieces of text, or take :attr:`text` at the end."""

    def __init__(self, model: Model, generation: Generation, *, keep_session: bool = False) -> None:
        self._model = model
        self._keep_session = keep_session
        #: Tokens, phases and statistics.
        self.generation = generation
        self._pieces: list[str] = []
        self._iterator = self._run()

    def _run(self) -> Iterator[str]:
        session = self.generation.session
        before = [*session.tokens, *session.pending, *self.generation.prompt]
        stream = TextStream(self._model.tokenizer, before)
        try:
            for item in self.generation:
                piece = stream.add(item.token) if item.stop_reason != "stop" else ""
                if item.stop_reason:
                    piece += stream.finish()
                if piece:
                    self._pieces.append(piece)
                    yield piece
        finally:
            if not self._keep_session:
                self.generation.release()

    def __iter__(self) -> Iterator[str]:
        return self._iterator

    @property
    def text(self) -> str:
        """The whole answer; runs the generation to its end."""
        for _ in self._iterator:
            pass
        return "".join(self._pieces)

    def __str__(self) -> str:
        return self.text


class LLM:
    """A language model on an accelerator.

    ``model``: a shipped or added name, a directory in Hugging Face layout, or a GGUF file. ``device``: ``"verilator"``,
    ``"golden"``, ``"pynq"`` or an open device; ``device_options`` go to its constructor. ``board``: the name of a board (in its
    configuration for the model), or a build configuration.
    ``head``: ``"exact"`` or ``"shortlist"``. ``cache_tokens``: KV cache that all sessions share, in tokens (one context if
    not given). ``reuse``: prompts start from the pages of earlier ones that begin alike.
    """

    def __init__(
        self,
        model: str | Path | Model = "stories",
        device: str | Device = "verilator",
        board: str | BuildConfig = "demo",
        progress: Callable[[str], None] | None = None,
        *,
        head: str = "exact",
        cache_tokens: int | None = None,
        reuse: bool = True,
        device_options: Mapping[str, object] | None = None,
    ) -> None:
        report = progress or (lambda text: None)
        self.model = open_model(model, report) if isinstance(model, (str, Path)) else model
        weights = self.model.weights
        config = board if isinstance(board, BuildConfig) else load_board(board).for_engine(weights.engine).config
        self.image = compile_model(config, weights, name=self.model.name, head=head, progress=report)
        if cache_tokens is not None:
            self.image = with_cache_tokens(self.image, cache_tokens)
        if isinstance(device, str):
            # on a board this is what must be free, elsewhere what is made
            memory = self.image.memory_bytes(0) if device == "pynq" else self.image.memory_bytes()
            options: dict[str, object] = {"memory_bytes": memory}
            if device != "golden":
                options["progress"] = progress
            device = open_device(device, config, **options, **(device_options or {}))
        self.device = device
        self.engine = Engine(device, self.image)
        #: Earlier prompts, for those that begin alike.
        self.prefixes = PrefixCache(self.engine) if reuse else None

    def generate(
        self,
        prompt: str | list[int],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        chat: bool = False,
        session: Session | None = None,
        context_full: str = "stop",
    ) -> Answer:
        """Answer a prompt (text or token ids). The default is greedy. See :class:`hwgen.Sampling`.

        A ``session`` is continued and stays open: close it with :meth:`close_session`. ``context_full``: see
        :data:`hwgen.sw.runtime.generation.CONTEXT_FULL`.
        """
        tokenizer = self.model.tokenizer
        if isinstance(prompt, list):
            ids = prompt
        elif chat:
            ids = tokenizer.encode_chat(prompt)
        elif session is not None and (session.tokens or session.pending):
            ids = tokenizer.encode_text(prompt)
        else:
            ids = tokenizer.encode(prompt)
        sampling = Sampling(
            temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=repetition_penalty, seed=seed
        )
        generation = self.generation(ids, max_new_tokens, sampling, session=session, context_full=context_full)
        generation.check()
        return Answer(self.model, generation, keep_session=session is not None)

    def generation(
        self,
        tokens: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling | Sampler,
        *,
        session: Session | None = None,
        context_full: str = "stop",
    ) -> Generation:
        """An answer to token ids of which nothing is computed yet: text, chat and server begin all of theirs here."""
        return Generation(
            self.engine,
            tokens,
            max_new_tokens,
            sampling,
            self.model.stop_tokens,
            session=Session() if session is None else session,
            context_full=context_full,
            keep=0 if self.model.tokenizer.begin is None else 1,
            prefixes=self.prefixes,
        )

    # ---- sessions ------------------------------------------------------------------------------------------------
    def save_session(self, session: Session, path: str | Path, *, kv_bits: int = 8) -> int:
        """Write a session to disk; returns the bytes of the file. See :mod:`hwgen.sw.runtime.session_file`."""
        return save_session(self.engine, session, Path(path), kv_bits=kv_bits)

    def load_session(self, path: str | Path) -> Session:
        """A session from disk."""
        return load_session(self.engine, Path(path))

    def close_session(self, session: Session) -> None:
        """Give the pages of a session back."""
        self.engine.pages.close(session)

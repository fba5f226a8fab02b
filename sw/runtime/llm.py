"""The Python interface: ``LLM("stories", device="verilator").generate("Once upon a time")``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy.typing as npt

from ...boards import load_board
from ...config import BuildConfig
from ...errors import HwgenError
from ..compiler.compile import compile_model
from ..compiler.image import Image
from ..compiler.image_file import CompiledModel, check_same_build, is_image_file, load_image
from ..devices.device import Device
from ..devices.open import open_device
from ..models.model import Model
from ..models.open import open_model
from ..models.tokenizer import TextStream
from .answers import AnswerSet, Written, best_answers
from .documents import Document, DocumentStore, checked_share, compute_document, lead
from .draft_model import DraftModel
from .drafts import DRAFTS, Drafter
from .engine import Engine
from .generation import Constraint, Generation
from .kv_arrays import with_cache_tokens
from .pages import Session
from .prefix_cache import PrefixCache
from .running_loop import LOOP_PASSES
from .sampler import Sampler
from .sampling import Sampling
from .session_file import load_session, save_session
from .vector_tokens import PLACE, as_words, with_vectors

__all__ = ["Answer", "LLM"]


class Answer:
    """A running answer: iterate over it for pieces of text, or take :attr:`text` at the end."""

    def __init__(self, model: Model | CompiledModel, generation: Generation, *, keep_session: bool = False) -> None:
        self._model = model
        self._keep_session = keep_session
        #: Tokens, phases and statistics.
        self.generation = generation
        self._pieces: list[str] = []
        self._iterator = self._run()

    def _run(self) -> Iterator[str]:
        session = self.generation.session
        before = as_words([*session.tokens, *session.pending, *self.generation.prompt])
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


def config_of(board: str | BuildConfig | None, engine: str) -> BuildConfig:
    """The build configuration of a board for the matrices of a model."""
    return board if isinstance(board, BuildConfig) else load_board(board or "demo").for_engine(engine).config


def named_model(name: str | Path, progress: Callable[[str], None]) -> Model | CompiledModel:
    """A model by its name or place, or what an image file has."""
    return load_image(Path(name)) if is_image_file(name) else open_model(name, progress, quantized=True)


def compiled_image(compiled: CompiledModel, board: str | BuildConfig | None, head: str | None) -> Image:
    """The image of a file, where it is for this board and has this head."""
    if board is not None:
        check_same_build(compiled, config_of(board, compiled.image.engine))
    if head not in (None, compiled.head):
        raise HwgenError(
            "usage", f"{compiled.path} was compiled with the {compiled.head} head, not {head}", "leave --head out, or compile again"
        )
    return compiled.image


class LLM:
    """A language model on an accelerator.

    ``model``: a shipped or added name, a directory in Hugging Face layout, a GGUF file, or an image file of ``hwgen compile``,
    which needs no compiler and no checkpoint. ``device``: ``"verilator"``, ``"golden"``, ``"pynq"`` or an open device;
    ``device_options`` go to its constructor (``memory_bytes`` among them, where other models take the
    device too: see :meth:`beside`). ``board``: the name of a board (in its configuration for the model), or a build
    configuration; if not given, that of an image, else ``"demo"``. ``head``: ``"exact"`` (if not given) or ``"shortlist"``; an
    image has one of them. ``cache_tokens``: KV cache that all sessions share, in tokens (one context if not given). ``reuse``:
    prompts start from the pages of earlier ones that begin alike. ``draft``: one of :data:`hwgen.sw.runtime.drafts.DRAFTS`.
    ``draft_model``: a smaller model of the same tokens, which then guesses what follows, on the same device.
    """

    def __init__(
        self,
        model: str | Path | Model | CompiledModel = "stories",
        device: str | Device = "verilator",
        board: str | BuildConfig | None = None,
        progress: Callable[[str], None] | None = None,
        *,
        head: str | None = None,
        cache_tokens: int | None = None,
        reuse: bool = True,
        draft: str = "lookup",
        draft_model: str | Path | Model | CompiledModel | None = None,
        device_options: Mapping[str, object] | None = None,
    ) -> None:
        if draft not in DRAFTS:
            raise HwgenError("usage", f"draft must be one of {', '.join(DRAFTS)}, not {draft!r}", "choose one")
        self._draft = draft
        report = progress or (lambda text: None)
        if isinstance(model, (str, Path)):
            model = named_model(model, report)
        self.model = model
        self.image = compiled_image(model, board, head) if isinstance(model, CompiledModel) else compile_model(
            config_of(board, model.weights.engine), model.weights, name=model.name, head=head or "exact", progress=report
        )
        config = self.image.config
        self._draft_image = None if draft_model is None else self._small_image(draft_model, report)
        images = [self.image] if self._draft_image is None else [self.image, self._draft_image]
        if cache_tokens is not None:
            images = [with_cache_tokens(image, cache_tokens) for image in images]
            self.image, self._draft_image = images[0], images[1] if images[1:] else None
        if isinstance(device, str):
            # on a board this is what must be free, elsewhere what is made
            memory = sum(image.contiguous_bytes if device == "pynq" else image.memory_bytes() for image in images)
            options: dict[str, object] = {"memory_bytes": memory}
            if device != "golden":
                options["progress"] = progress
            options |= device_options or {}
            self._open: Callable[[], Device] | None = partial(open_device, device, config, **options)
            device = self._open()
        else:
            self._open = None
        self._reuse = reuse
        #: Texts whose keys and values are taken over wherever a prompt has them: see :meth:`document`.
        self.documents = DocumentStore()
        self._fill(device)

    def _small_image(self, model: str | Path | Model | CompiledModel, report: Callable[[str], None]) -> Image:
        """The image of a model whose guesses are drafts, for the build of the large one."""
        if self._draft == "none":
            raise HwgenError("usage", "a draft model was given, and no drafts are wanted", "leave draft none out, or the model")
        if isinstance(model, (str, Path)):
            model = named_model(model, report)
        if not model.tokenizer.has_tokens_of(self.model.tokenizer):
            raise HwgenError(
                "model", f"the draft model {model.name!r} has other tokens than {self.model.name!r}",
                "choose a smaller model of the same family, or leave the draft model out",
            )
        if isinstance(model, CompiledModel):
            return compiled_image(model, self.image.config, None)
        return compile_model(self.image.config, model.weights, name=model.name, progress=report)

    def _fill(self, device: Device) -> None:
        """Put the image on a device that has room for it."""
        self.device = device
        self.engine = Engine(device, self.image)
        self._draft_engine = None if self._draft_image is None else Engine(device, self._draft_image, beside=self.engine)
        #: Earlier prompts, for those that begin alike.
        self.prefixes = PrefixCache(self.engine) if self._reuse else None

    def beside(self, model: CompiledModel, *, cache_tokens: int | None = None, reuse: bool = True) -> LLM:
        """Another model, compiled for the same build, on the device of this one, which it takes: :meth:`take` gives it back."""
        self.engine.settle()
        self.device.clear()
        other = LLM(model, self.device, self.image.config, cache_tokens=cache_tokens, reuse=reuse, draft=self._draft)
        other._open = self._open
        return other

    def take(self, device: Device) -> None:
        """Put the image on a device in place of another model's, whose sessions, and what was kept of prompts, are lost. The fabric
        is not loaded anew.
        """
        device.clear()
        self._fill(device)

    def reopen(self) -> None:
        """Put the image on the device opened anew, after it failed. Sessions, and what was kept of prompts, are lost."""
        if self._open is None:
            raise HwgenError("device", "this device was opened elsewhere, not by this LLM", "open it again, and start anew")
        with contextlib.suppress(Exception):  # it failed: what is left of it may not even end
            getattr(self.device, "close", lambda: None)()
        self._fill(self._open())

    def document(self, text: str) -> Document:
        """Compute keys and values of a text once for all prompts: behind what usually stands in front of one, and behind that and
        another text (:meth:`Document.nearest` says which serve a prompt). From now on prompts that have the text anywhere take
        them over, and compute a share of its tokens again (``documents.recompute``): answers come sooner and are not quite those
        to the whole prompt. Nothing else may run meanwhile.
        """
        tokenizer = self.model.tokenizer
        tokens = tokenizer.encode_text(text)
        known = self.documents.get(tokens)
        if known is None:
            before, front = tokenizer.usual_beginning, tokenizer.encode_text(lead())
            known = compute_document(self.engine, text, tokens, before, self.prefixes, front)
            self.documents.add(known)
        return known

    def generate(
        self,
        prompt: str | list[int] = "",
        *,
        documents: Sequence[Document] = (),
        recompute: float | None = None,
        embeddings: npt.ArrayLike | None = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        logit_bias: Mapping[int, float] | None = None,
        seed: int = 0,
        chat: bool = False,
        session: Session | None = None,
        context_full: str = "stop",
        logprobs: int | None = None,
        kv_budget: int = 0,
    ) -> Answer:
        """Answer a prompt (text or token ids). The default is greedy. See :class:`hwgen.Sampling`.

        A ``session`` is continued and stays open: close it with :meth:`close_session`. ``context_full``: see
        :data:`hwgen.sw.runtime.generation.CONTEXT_FULL`. ``logprobs``: so many likely tokens beside every one of the answer, in
        :attr:`Generation.scores`.

        ``documents``: what :meth:`document` gave, in front of the prompt, or of the message with ``chat``. ``recompute``: the share
        of the tokens of documents that is computed again, 0 to 1, in place of ``self.documents.recompute``; 1 is the whole prompt.

        ``embeddings [n, hidden]``: vectors that take part as tokens do, rounded to bfloat16: in the places of -1 in a list of token
        ids, else before the prompt, behind its begin token.

        ``kv_budget``: blocks of the cache that every token behind the prompt chooses for each key/value head, and attends to beside
        the first and the newest ones; 0: all. Answers to long prompts come sooner, and are not quite the same.
        """
        tokenizer = self.model.tokenizer
        goes_on = session is not None and bool(session.tokens or session.pending)
        ids = self._with_documents(prompt, documents, chat, goes_on)
        if embeddings is not None:
            begins = bool(ids) and ids[0] == tokenizer.begin
            ids = with_vectors(ids, embeddings, self.image.shape.hidden, int(begins))
        elif PLACE in ids:
            raise HwgenError("usage", f"the prompt has places ({PLACE}) and no embeddings", "give embeddings, or token ids alone")
        sampling = Sampling(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty, frequency_penalty=frequency_penalty, logit_bias=logit_bias or {}, seed=seed,
        )
        generation = self.generation(
            ids, max_new_tokens, sampling, session=session, context_full=context_full, logprobs=logprobs, kv_budget=kv_budget,
        )
        generation.recompute = recompute if recompute is None else checked_share(recompute)
        generation.check()
        return Answer(self.model, generation, keep_session=session is not None)

    def _with_documents(self, prompt: str | list[int], documents: Sequence[Document], chat: bool, goes_on: bool) -> list[int]:
        """Token ids of a prompt with documents in front."""
        tokenizer, whole = self.model.tokenizer, self.documents.texts
        if any(self.documents.get(d.tokens) is not d for d in documents):
            raise HwgenError("usage", "a document belongs to another LLM", "make it with the document() of this one")
        if isinstance(prompt, list):
            return [*(token for d in documents for token in d.tokens), *prompt]
        text = "".join([d.text for d in documents] + [prompt])
        if chat:
            return tokenizer.encode_chat(text, whole)
        return tokenizer.encode_text(text, whole) if goes_on else tokenizer.encode(text, whole)

    def answers(
        self, prompt: str | list[int], sampling: Sampling, *, n: int = 1, best_of: int | None = None, first_finish: bool = False,
        max_new_tokens: int = 128, chat: bool = False, kv_budget: int = 0,
    ) -> list[Written]:
        """``n`` answers to one prompt, answer ``i`` from the seed ``seed + i``: of ``best_of`` that are written the likeliest a
        token, best first; or with ``first_finish`` the first of ``n`` that ends, alone. ``kv_budget``: as of :meth:`generate`.
        """
        written = n if best_of is None else best_of
        if not 1 <= n <= written:
            raise HwgenError("usage", f"n must be 1 to best_of, not {n} of {written}", "give n, or a larger best_of")
        if first_finish and written > n:
            raise HwgenError("usage", "first_finish takes the answer that ends first, best_of the best of all", "give one of them")
        ids = self._with_documents(prompt, (), chat, False)
        logprobs = 0 if written > n else None
        generations = [
            self.generation(
                ids, max_new_tokens, replace(sampling, seed=sampling.seed + i), logprobs=logprobs, kv_budget=kv_budget
            )
            for i in range(written)
        ]
        generations[0].check()
        found = AnswerSet(self.model.tokenizer, generations).write(first_finish=first_finish)
        return [found[i] for i in best_answers([a.score for a in found], n)] if written > n else found

    def generation(
        self,
        tokens: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling | Sampler,
        *,
        session: Session | None = None,
        context_full: str = "stop",
        stop_tokens: Sequence[int] | None = None,
        constraint: Constraint | None = None,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        kv_budget: int = 0,
    ) -> Generation:
        """An answer to token ids of which nothing is computed yet: text, chat and server begin all of theirs here.

        ``stop_tokens`` in place of the model's; ``constraint``, ``logprobs``, ``prompt_logprobs``, ``kv_budget``: see
        :class:`Generation`.
        """
        return Generation(
            self.engine,
            tokens,
            max_new_tokens,
            sampling,
            self.model.stop_tokens if stop_tokens is None else stop_tokens,
            session=Session() if session is None else session,
            context_full=context_full,
            keep=0 if self.model.tokenizer.begin is None else 1,
            prefixes=self.prefixes,
            documents=self.documents if len(self.documents) else None,
            constraint=constraint,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            drafter=None if kv_budget else self._drafter(),
            doorbell_passes=LOOP_PASSES,
            kv_budget=kv_budget,
        )

    def _drafter(self) -> Drafter | None:
        """What guesses the tokens of one answer."""
        if self._draft == "none":
            return None
        if self._draft_engine is None:
            return Drafter(self.engine.costs)
        return Drafter(self.engine.costs, DraftModel(self._draft_engine))

    # ---- sessions ------------------------------------------------------------------------------------------------
    def save_session(self, session: Session, path: str | Path, *, kv_bits: int = 8) -> int:
        """Write a session to disk; returns the bytes of the file. See :mod:`hwgen.sw.runtime.session_file`."""
        return save_session(self.engine, session, Path(path), kv_bits=kv_bits)

    def load_session(self, path: str | Path) -> Session:
        """A session from disk."""
        return load_session(self.engine, Path(path))

    def close_session(self, session: Session) -> None:
        """Give the pages of a session back."""
        self.engine.settle()
        self.engine.pages.close(session)

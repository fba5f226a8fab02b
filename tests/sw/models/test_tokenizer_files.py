"""Tokenizers of directories, against ``AutoTokenizer``: ids, rendered conversations, and a prompt decoded with its answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.models.library import find_model
from hwgen.sw.models.tokenizer import TextStream, Tokenizer
from hwgen.sw.models.tokenizer_files import load_tokenizer

transformers = pytest.importorskip("transformers")
pytest.importorskip("jinja2")

WORDS = ["Once upon a time there was a cat. The cat sat on 12 mats, naïvely.", "the cat sat on the mat 345"] * 3

TEXTS = (
    "the cat", " the cat", "The  cat\n\n sat", "", "a", "on 12345 mats", "naïve é ü 猫 🐱", "<s>the", "the<|im_end|>cat",
    "it's I'll", "\t\r\n x", "<|im_start|>user\nthe cat<|im_end|>\n", "</s>", "ca t.", "  ",
)

TURNS = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"

#: As models in use have them: begin token, nested conditions, blocks on lines of their own.
TEMPLATES = (
    TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{{ bos_token }}{% for m in messages %}\n  {% if m.role == 'user' %}\n[INST] {{ m.content }} [/INST]\n  {%- else %} "
    "{{ m.content }}{{ eos_token }}{% endif %}\n{% endfor %}",
    "{{ bos_token }}{% if tools is not none %}tools{% endif %}{% set ns = namespace(n=0) %}{% for m in messages %}"
    "{% set ns.n = ns.n + 1 %}{{ ns.n }} {{ m | tojson }}{% if loop.index > 1 %}{% break %}{% endif %}{% endfor %}",
    "{{ strftime_now('%Y') }}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}{{ unk_token }}",
)

MESSAGES = (
    [{"role": "user", "content": "the cat"}],
    [
        {"role": "system", "content": "sat <b> & 'on'"}, {"role": "user", "content": " naïve\n"},
        {"role": "assistant", "content": "12"},
    ],
)


def byte_level(begins: bool = False, words: bool = False) -> Any:
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    inner: Any = Inner(models.BPE(ignore_merges=words))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    inner.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=special))
    if begins:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return inner


def sentence_piece() -> Any:
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, normalizers, trainers

    inner: Any = Inner(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    inner.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=360, special_tokens=special))
    return inner


def _token(content: str, special: bool = True, **flags: bool) -> dict[str, Any]:
    off = dict.fromkeys(("normalized", "lstrip", "rstrip", "single_word"), False)
    return {"__type": "AddedToken", "content": content, "special": special, **off, **flags}


ENDS = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}

#: Name -> what makes the tokenizer, ``tokenizer_config.json``, other files.
KINDS: dict[str, tuple[Callable[[], Any], dict[str, Any] | None, dict[str, Any]]] = {
    "plain": (byte_level, ENDS, {}),
    "begins": (lambda: byte_level(begins=True), ENDS, {}),
    "whole words": (lambda: byte_level(words=True), ENDS, {}),
    "only tokenizer.json": (lambda: byte_level(begins=True), {"tokenizer_class": "PreTrainedTokenizerFast"}, {}),
    "add_bos_token without a processor": (byte_level, {**ENDS, "add_bos_token": True, "add_eos_token": True}, {}),
    "sentence piece": (sentence_piece, {**ENDS, "unk_token": "<unk>", "clean_up_tokenization_spaces": True}, {}),
    "tokens of the decoder": (byte_level, {
        **ENDS, "added_tokens_decoder": {
            "300": _token("<|tool|>"), "301": _token("<think>", False), "302": _token("<|pad|>", lstrip=True),
        },
    }, {}),
    "tokens that both files have": (byte_level, {
        **ENDS, "added_tokens_decoder": {
            "0": _token("<s>"), "1": _token("</s>"), "300": _token("<|tool|>"), "301": _token("<think>", False),
        },
    }, {}),
    "added_tokens.json": (byte_level, {**ENDS, "additional_special_tokens": ["<|tool|>"]},
                          {"added_tokens.json": {"<|tool|>": 300, "<think>": 301}}),
    "special_tokens_map.json": (byte_level, {"tokenizer_class": "PreTrainedTokenizerFast"}, {
        "special_tokens_map.json": {"bos_token": _token("<|im_start|>"), "eos_token": "<|im_end|>", "pad_token": "<|pad|>"}}),
    "named token": (byte_level, {**ENDS, "pad_token": _token("<|pad|>"), "image_token": "<|image|>"}, {}),
}


def write(directory: Path, kind: str, **settings: Any) -> Path:
    make, options, files = KINDS[kind]
    directory.mkdir(exist_ok=True)
    make().save(str(directory / "tokenizer.json"))
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 400, "bos_token_id": 0}))
    (directory / "tokenizer_config.json").write_text(json.dumps((options or {}) | settings))
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))
    return directory


@pytest.mark.parametrize("kind", KINDS)
def test_same_as_transformers(kind: str, tmp_path: Path) -> None:
    ours = load_tokenizer(write(tmp_path / "m", kind))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    extra = ("<|tool|> a <think>b</think>", "<|pad|> x <|image|>") if "token" in kind else ()
    for text in (*TEXTS, *extra):
        assert ours.encode(text) == theirs(text)["input_ids"], text
        assert ours.encode_text(text) == theirs(text, add_special_tokens=False)["input_ids"], text
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True), text
    for template in TEMPLATES:
        ours = load_tokenizer(write(tmp_path / "m", kind, chat_template=template))
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
        for messages in MESSAGES:
            expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            assert ours.encode_messages(messages) == expected, (template, messages)


@pytest.mark.parametrize("kind", ["begins", "sentence piece"])
def test_prompt_and_answer_read_on(kind: str, tmp_path: Path) -> None:
    """The pieces of an answer, behind its prompt, are what decoding everything at once gives."""
    ours = load_tokenizer(write(tmp_path / "m", kind))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    for prompt, answer in (("Once upon", " a time"), ("the", " cat sat é 🐱"), ("The cat", ". The"), ("", "the cat")):
        before, after = ours.encode(prompt), ours.encode_text(answer)
        stream = TextStream(ours, before)
        text = "".join(stream.add(token) for token in after) + stream.finish()
        assert ours.decode(before) + text == theirs.decode(before + after, skip_special_tokens=True)


def test_shipped_model() -> None:
    """The story model begins every text by its own end token, in transformers, too."""
    ours, theirs = load_tokenizer(find_model("stories")), transformers.AutoTokenizer.from_pretrained(find_model("stories"))
    assert ours.begin == 0
    for text in TEXTS:
        assert ours.encode(text) == theirs(text)["input_ids"]


def test_template_files(tmp_path: Path) -> None:
    """A file goes before the field; of several the one named default; none named default is refused."""
    both = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ bos_token }}the" + TURNS}]
    directory = write(tmp_path / "m", "plain", chat_template=both)
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    for _ in range(2):
        expected = theirs.apply_chat_template(MESSAGES[0], add_generation_prompt=True, return_dict=False)
        assert load_tokenizer(directory).encode_messages(MESSAGES[0]) == expected
        (directory / "chat_template.jinja").write_text("cat" + TURNS)
        theirs = transformers.AutoTokenizer.from_pretrained(directory)
    (directory / "chat_template.jinja").unlink()
    directory = write(tmp_path / "m", "plain", chat_template=both[:1])
    with pytest.raises(HwgenError, match="chat templates tool_use, but none named 'default'"):
        load_tokenizer(directory)


def test_control_tokens_in_messages_are_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write(tmp_path / "m", "plain", chat_template=TEMPLATES[0]))
    control = {tokenizer.encode_text(t)[0] for t in ("<|im_start|>", "<|im_end|>", "</s>")}
    plain = tokenizer.encode_chat("the cat")
    typed = tokenizer.encode_chat("the<|im_end|>\n<|im_start|>system\n</s>cat")
    assert [t for t in typed if t in control] == [t for t in plain if t in control]
    assert "the<|im_end|>\n<|im_start|>system\n</s>cat" in tokenizer.decode(typed)
    assert tokenizer.encode("<|im_end|>")[0] in control  # a prompt without template is what its writer says


@pytest.mark.parametrize(("template", "words"), [
    ("{% for m in messages %}", "cannot be read"),
    ("{{ raise_exception('roles must alternate') }}", "refuses the messages: roles must alternate"),
    ("{{ 1 / 0 }}", "fails: ZeroDivisionError"),
    ("{{ messages[0].content + 1 }}", "fails: TypeError"),
    ("{{ ''.__class__.__mro__ }}", "refuses the messages: access to attribute '__class__'"),
])
def test_templates_that_fail(template: str, words: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write(tmp_path / "m", "plain", chat_template=template))
    with pytest.raises(HwgenError, match=words) as error:
        tokenizer.encode_chat("the cat")
    assert error.value.kind == "tokenizer"


def test_text_that_is_none(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write(tmp_path / "m", "plain", chat_template=TEMPLATES[0]))
    for encode in (tokenizer.encode, tokenizer.encode_text, tokenizer.encode_chat):
        with pytest.raises(HwgenError, match="no valid Unicode text"):
            encode("the \udcff cat")


def test_refused_files(tmp_path: Path) -> None:
    directory = write(tmp_path / "m", "plain", added_tokens_decoder={"400": _token("<|tool|>")})
    with pytest.raises(HwgenError, match=r"'<\|tool\|>' is to be 400, but tokenizer.json makes it 300"):
        load_tokenizer(directory)
    write(directory, "plain", added_tokens_decoder=[1])
    with pytest.raises(HwgenError, match="no table of tokens"):
        load_tokenizer(directory)
    (directory / "tokenizer_config.json").write_text("{")
    with pytest.raises(HwgenError, match="not valid JSON"):
        load_tokenizer(directory)
    (directory / "tokenizer.json").unlink()
    for name in ("vocab.json", "tekken.json"):
        (directory / name).write_bytes(b"{}")
    (directory / "tokenizer_config.json").write_text("{}")
    with pytest.raises(HwgenError, match=r"tokenizer.json is missing \(vocab.json alone is not read"):
        load_tokenizer(directory)


def test_batches_of_the_training_do_not_shape_texts(tmp_path: Path) -> None:
    inner = byte_level()
    inner.enable_truncation(3)
    inner.enable_padding(length=9, pad_id=1, pad_token="</s>")
    directory = write(tmp_path / "m", "plain")
    inner.save(str(directory / "tokenizer.json"))
    assert load_tokenizer(directory).encode("the cat sat on") == Tokenizer(byte_level()).encode("the cat sat on")

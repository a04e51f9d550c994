"""Every kind of tokenizer of the family: what travels in the file gives the ids that AutoTokenizer gives."""

from __future__ import annotations

import functools
import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from form_checkpoint import form_checkpoint
from gguf_edit import rewrite
from models import scratch
from modernbert_llama import keys
from modernbert_llama.convert import convert
from modernbert_llama.describe import describe
from modernbert_llama.embedder import Embedder
from modernbert_llama.errors import (
    CheckpointError,
    ModelFileError,
    ModernBertLlamaError,
    TruncationWarning,
    UnsupportedError,
)
from modernbert_llama.gguf_header import read_header
from modernbert_llama.hf_tokenizer import read_tokenizer
from modernbert_llama.tokenizer import HuggingFaceTokenizer
from tiny_checkpoint import edit_json
from tokenizer_forms import FORMS, corpus, random_texts, save_form
from tokenizers import AddedToken, Tokenizer

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("default")]

N_TEXTS = 5000
ALL = pytest.mark.parametrize("name", FORMS)
KINDS = {
    "standard": "byte-level BPE, GPT-2 split, NFC",
    "markers": "byte-level BPE, GPT-2 split, NFC",
    "gpt-4o": "byte-level BPE, GPT-4o split",
    "llama-3": "byte-level BPE, Llama 3 split, NFC",
    "mmbert": "metaspace BPE with byte fallback",
    "granite-311m": "metaspace BPE with byte fallback",
    "ruri": "SentencePiece unigram with byte fallback",
    "ruri-model": "SentencePiece unigram with byte fallback",
    "charsmap-model": "SentencePiece unigram with byte fallback, Precompiled",
    "bpe-model": "metaspace BPE with byte fallback",
    "xlm-roberta": "SentencePiece unigram, Precompiled",
    "llama": "metaspace BPE with byte fallback",
    "wordpiece": "WordPiece, Lowercase, StripAccents",
    "folded": "byte-level BPE, GPT-4o split, NFKC, Lowercase, NFD, StripAccents",
    "word-level": "WordLevel, NFKC",
}
# at most this share of generated texts does llama.cpp's own tokenizer, patched, do otherwise (docs/tokenizers.md)
LLAMA_SHARES = {
    "markers": 0.01,
    "ruri": 0.03,
    "bpe-model": 0.005,
    "ruri-model": 0.03,
    "charsmap-model": 0.15,
    "xlm-roberta": 0.06,
    "wordpiece": 0.12,
}


@functools.cache
def folder(name: str, generation: int = 5) -> Path:
    return form_checkpoint(scratch() / f"form-{name}-{generation}", name, generation=generation)


@functools.cache
def file(name: str, generation: int = 5) -> Path:
    return convert(folder(name, generation), scratch() / f"form-{name}-{generation}.gguf")


def embedded(path: Path) -> str:
    value = read_header(path).metadata[keys.TOKENIZER_JSON]
    assert isinstance(value, str)
    return value


def reference(path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, local_files_only=True)


def same(texts: list[str], ours: list[list[int]], theirs: list[list[int]]) -> None:
    assert len(ours) == len(theirs) == len(texts)
    wrong = [item for item in zip(texts, ours, theirs, strict=True) if item[1] != item[2]]
    assert not wrong, f"{len(wrong)} of {len(texts)}, the shortest {min(wrong, key=lambda item: len(item[0]))}"


@ALL
@pytest.mark.parametrize("generation", [5, 4])
def test_ids_and_truncation_are_those_of_transformers(name: str, generation: int) -> None:
    texts = random_texts(N_TEXTS, seed=generation)
    ours, theirs = HuggingFaceTokenizer(embedded(file(name, generation)), name), reference(folder(name, generation))
    ids = ours.encode(texts)
    same(texts, ids, theirs(texts)["input_ids"])
    for limit in (5, 8, 17, 64):
        cut = [ours.truncate(item, limit) for item in ids]
        same(texts, cut, theirs(texts, truncation=True, max_length=limit)["input_ids"])


@ALL
def test_pairs_are_those_of_transformers(name: str) -> None:
    texts = random_texts(1000, seed=7)
    pairs = list(zip(texts, texts[1:] + texts[:1], strict=True))
    ours, theirs = Tokenizer.from_str(embedded(file(name))), reference(folder(name))
    for limit in (None, 24):
        ours.no_truncation()
        if limit is not None:
            ours.enable_truncation(limit, strategy="longest_first")
        found = ours.encode_batch(pairs)
        expected = theirs(
            *(list(side) for side in zip(*pairs, strict=True)),
            truncation="longest_first" if limit else False,
            max_length=limit,
            return_token_type_ids=True,
        )
        same([f"{a}|{b}" for a, b in pairs], [item.ids for item in found], expected["input_ids"])
        same([f"{a}|{b}" for a, b in pairs], [item.type_ids for item in found], expected["token_type_ids"])


@ALL
def test_the_file_holds_the_right_vocabulary_and_inspect_names_the_kind(name: str) -> None:
    facts = {(section, key): value for section, key, value in describe(file(name)).facts}
    assert facts["tokenizer", "kind"] == KINDS[name]
    metadata, expected = read_header(file(name)).metadata, FORMS[name].ggml
    assert metadata["tokenizer.ggml.model"] == (expected[0] if expected else "none")
    assert metadata.get("tokenizer.ggml.pre") == (expected[1] if expected else None)


@ALL
def test_the_engine_loads_the_file_and_embeds(name: str) -> None:
    model, theirs = Embedder(file(name)), reference(folder(name))
    texts = random_texts(50, seed=3)
    same(texts, [model.tokenize(text) for text in texts], theirs(texts)["input_ids"])
    assert model.embed(corpus()[:2]).shape == (2, 64)


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.ggml is None])
def test_a_file_without_ggml_vocabulary_says_so(name: str) -> None:
    with pytest.raises(ModelFileError, match="no vocabulary"):
        Embedder(file(name), tokenizer="llama").tokenize("a")


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.ggml is not None])
def test_how_often_llama_cpp_differs(name: str) -> None:
    """An upper bound, so that a change which makes it worse is seen; the table is in docs/tokenizers.md."""
    texts = random_texts(1000, seed=1)
    exact, own = Embedder(file(name)), Embedder(file(name), tokenizer="llama")
    differ = [text for text in texts if exact.tokenize(text) != own.tokenize(text)]
    assert len(differ) <= LLAMA_SHARES.get(name, 0.0) * len(texts), min(differ, key=len)
    plain = [text for text in corpus() if exact.tokenize(text) != own.tokenize(text)]
    assert not plain or name == "wordpiece", min(plain, key=len)


@pytest.mark.parametrize("name", ["standard", "gpt-4o", "mmbert", "ruri"])
@pytest.mark.parametrize("text", ["a", " ", "\u65e5", "\u0301"])
def test_a_long_run_does_not_crash_llama_cpp(name: str, text: str) -> None:
    """std::regex, by which stock llama.cpp splits as GPT-4o does, overflows the stack."""
    exact, own = Embedder(file(name)), Embedder(file(name), tokenizer="llama")
    assert own.tokenize(text * 100_000) == exact.tokenize(text * 100_000)


@pytest.mark.parametrize("name", ["standard", "mmbert", "ruri"])
@pytest.mark.parametrize("changes", [{"truncation_side": "left"}, {"split_special_tokens": True}], ids=str)
def test_settings_of_the_tokenizer_config(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    source = form_checkpoint(tmp_path / "in", name)
    edit_json(source / "tokenizer_config.json", **changes)
    model, theirs = Embedder(convert(source, tmp_path / "out.gguf")), reference(source)
    texts = random_texts(1000, seed=5)
    ids = [model.tokenize(text) for text in texts]
    same(texts, ids, theirs(texts)["input_ids"])
    with pytest.warns(TruncationWarning):
        cut = model._token_ids(texts, "", True, 12)
    same(texts, cut, theirs(texts, truncation=True, max_length=12)["input_ids"])


def test_tokens_of_added_tokens_json(tmp_path: Path) -> None:
    save_form("standard", tmp_path)
    edit_json(tmp_path / "config.json", model_type="modernbert")
    edit_json(tmp_path / "added_tokens.json", **{"[Y]": 1025, "[X]": 1024, "[MASK]": 1016})
    texts = ["a [X] b[Y]", *random_texts(100)]
    same(
        texts,
        HuggingFaceTokenizer(read_tokenizer(tmp_path).json, "x").encode(texts),
        reference(tmp_path)(texts)["input_ids"],
    )


def test_a_unigram_model_beside_added_tokens_decoder(tmp_path: Path) -> None:
    """transformers 5 itself cannot read this folder: the same with a tokenizer.json is the reference."""
    size = save_form("ruri-model", tmp_path / "model")
    plain = read_tokenizer(tmp_path / "model").json
    token = {"content": "[X]", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}
    edit_json(
        tmp_path / "model" / "tokenizer_config.json", added_tokens_decoder={str(size): {**token, "special": True}}
    )
    expected = Tokenizer.from_str(plain)
    expected.add_special_tokens([AddedToken("[X]", lstrip=True, normalized=False)])
    found = Tokenizer.from_str(read_tokenizer(tmp_path / "model").json)
    for text in ["a  [X]b", *random_texts(200)]:
        assert found.encode(text).ids == expected.encode(text).ids


def test_a_tokenizer_model_without_the_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_form("ruri-model", tmp_path)
    for library in ("sentencepiece", "google.protobuf", "transformers"):
        with monkeypatch.context() as context:
            context.setitem(sys.modules, library, None)
            with pytest.raises(UnsupportedError, match=r"modernbert-llama\[sentencepiece\]"):
                read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\xff\xff")
    with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("ruri", {"tokenizer.ggml.model": "rwkv"}, "rwkv"),
        ("ruri", {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": None}, "<0x41>"),
        ("xlm-roberta", {"tokenizer.ggml.bos_token_id": None}, "bos_token_id"),
        ("wordpiece", {"tokenizer.ggml.seperator_token_id": None}, "seperator_token_id"),
        ("folded", {"vocab_size": 7}, "vocab_size"),
    ],
)
def test_vocabularies_that_would_abort_llama_cpp(
    tmp_path: Path, name: str, changes: dict[str, Any], complaint: str
) -> None:
    if changes.get("tokenizer.ggml.tokens", 0) is None:
        tokens = read_header(file(name)).metadata["tokenizer.ggml.tokens"]
        assert isinstance(tokens, tuple)
        changes = {**changes, "tokenizer.ggml.tokens": ["x41" if token == "<0x41>" else token for token in tokens]}
    with pytest.raises(ModelFileError, match=complaint):
        Embedder(rewrite(file(name), tmp_path / "bad.gguf", metadata=changes))


def test_the_json_of_the_file_is_the_folder_s() -> None:
    for name in ("standard", "mmbert", "ruri"):
        assert embedded(file(name)) == (folder(name) / "tokenizer.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["gpt-4o", "mmbert", "llama", "xlm-roberta", "ruri", "wordpiece", "folded"])
def test_random_damage_to_the_vocabulary_never_ends_the_process(tmp_path: Path, name: str) -> None:
    data, rng = file(name).read_bytes(), random.Random(name)
    start, end = data.index(b"tokenizer.ggml.model"), data.index(b"output_norm.weight")
    survived = 0
    for _ in range(40):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 5))):
            damaged[rng.randrange(start, end)] = rng.randrange(256)
        (tmp_path / "damaged.gguf").write_bytes(damaged)
        with suppress(ModernBertLlamaError):
            model = Embedder(tmp_path / "damaged.gguf", tokenizer="llama")
            for text in ("hello w\u00f6rld", "a\nb \uff76\uff9e [MASK] <mask>", "\u65e5\u672c " * 20):
                model.tokenize(text)
            survived += 1
    assert survived < 40

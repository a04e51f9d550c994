"""MaskedLM and SparseEmbedder: against transformers and sentence-transformers in float64, and on bad input."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import scratch, stock_llama
from modernbert_llama import Embedder, MaskedLM, SparseEmbedder, convert, load
from modernbert_llama.checkpoint import read_checkpoint
from modernbert_llama.convert import OutType
from modernbert_llama.errors import CheckpointError, InputError, TooLongError, TruncationWarning, UnsupportedError
from numpy.typing import NDArray
from specs import cosine_distance

pytest.importorskip("torch")
pytest.importorskip("transformers")

from lm_heads import FORMS, TEXTS, save_checkpoint

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("default")]  # torch's warnings are not ours to answer for

OUTTYPES: tuple[OutType, ...] = ("f32", "bf16", "q8_0")
# error of the logits over their largest: of f32 the bar of the product; of the others what rounding of weights and
# activations to 8 and 7 bits brings in these small models, over which any wrong detail stands out
BARS = {"f32": 1e-5, "bf16": 5e-2, "q8_0": 5e-2}


@cache
def folder(form: str) -> Path:
    return save_checkpoint(scratch() / f"lm-{form}", form)


@cache
def file(form: str, outtype: OutType) -> Path:
    return convert(folder(form), scratch() / f"lm-{form}-{outtype}.gguf", outtype=outtype, show_progress=False)


@cache
def reference(form: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoTokenizer, ModernBertForMaskedLM

    model = ModernBertForMaskedLM.from_pretrained(folder(form), dtype=torch.float64, attn_implementation="eager")
    return model.eval(), AutoTokenizer.from_pretrained(folder(form))


def logits_of(form: str, text: str) -> NDArray[np.float64]:
    import torch

    model, tokenizer = reference(form)
    with torch.no_grad():
        return np.asarray(model(**tokenizer(text, return_tensors="pt")).logits[0])


def random_texts(n: int) -> list[str]:
    rng = random.Random(5)
    words = ["river", "stone", "the", "é", "日本", "🙂", "x1", ",", "\n", "wind  ", "[MASK]", "of"]
    return [" ".join(rng.choices(words, k=rng.randint(1, 60))) for _ in range(n)]


@pytest.mark.parametrize("outtype", OUTTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_logits(form: str, outtype: OutType) -> None:
    model = MaskedLM(file(form, outtype))
    texts = [*TEXTS, *random_texts(20)]
    ids = [model.tokenize(text) for text in texts]
    rows = np.split(model._engine.head_rows(ids), np.cumsum([len(text) for text in ids])[:-1])
    for text, ours in zip(texts, rows, strict=True):
        expected = logits_of(form, text)
        assert ours.shape == expected.shape
        assert np.abs(ours - expected).max() < BARS[outtype] * np.abs(expected).max()


@pytest.mark.parametrize("form", FORMS)
def test_fill_is_the_pipeline(form: str) -> None:
    """Tokens, strings and sequences are the pipeline's; the scores within 1e-5."""
    from transformers import pipeline

    network, tokenizer = reference(form)
    filler = pipeline("fill-mask", model=network, tokenizer=tokenizer)
    model = MaskedLM(file(form, "f32"))
    texts = [text for text in (*TEXTS, *random_texts(30)) if "[MASK]" in text]
    assert sum(text.count("[MASK]") > 1 for text in texts) > 5
    ours: Any
    for top_k in (1, 5):
        for text, ours in zip(texts, model.fill(texts, top_k=top_k), strict=True):
            theirs = filler(text, top_k=top_k)
            several = isinstance(theirs[0], list)
            for mine, other in zip(ours if several else [ours], theirs if several else [theirs], strict=True):
                assert [fill["token"] for fill in mine] == [fill["token"] for fill in other]
                for a, b in zip(mine, other, strict=True):
                    assert a["score"] == pytest.approx(b["score"], rel=1e-4)
                    assert (a["token_str"], a["sequence"]) == (b["token_str"], b["sequence"])
    targets = ["e", "river", "Ġthe", "s"]
    ours = model.fill(TEXTS[0], targets=targets)
    theirs = filler(TEXTS[0], targets=targets)
    assert [fill["token"] for fill in ours] == [fill["token"] for fill in theirs]
    assert [fill["score"] for fill in ours] == pytest.approx([fill["score"] for fill in theirs], rel=1e-4)


def test_fill_refuses() -> None:
    model = MaskedLM(file("plain", "f32"))
    assert model.mask_token == "[MASK]"
    assert model.fill([]) == []
    bad: list[Any] = ["no mask", "", ["[MASK]", "none"], ["[MASK]", 3], "[MASK] \ud800", b"[MASK]", None]
    for texts in bad:
        with pytest.raises(InputError):
            model.fill(texts)
    options: list[dict[str, Any]] = [
        {"top_k": 0},
        {"top_k": True},
        {"targets": []},
        {"targets": [""]},
        {"max_length": 0},
    ]
    for option in options:
        with pytest.raises(InputError):
            model.fill("[MASK]", **option)
    long = "word " * 2000 + "[MASK]"
    with pytest.raises(TooLongError):
        model.fill(long, truncate=False)
    with pytest.raises(InputError, match="no \\[MASK\\] within"), pytest.warns(TruncationWarning):
        model.fill(long)
    many = "[MASK] " * 100
    assert len(model.fill(many, top_k=2000)) == 100


def dense(embeddings: Any) -> NDArray[np.float64]:
    return np.asarray(embeddings.to_dense().double().numpy())


@cache
def sparse_folder(form: str, pooling: str, activation: str, saved_as: str) -> Path:
    """A SparseEncoder as sentence-transformers saves it; ``saved_as`` "MLMTransformer": as its release 5.0 did."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    target = scratch() / f"splade-{form}-{pooling}-{activation}-{saved_as}"
    source = SparseEncoder(str(folder(form)))
    model = SparseEncoder(
        modules=[source[0], SpladePooling(pooling, activation)],
        prompts={"query": "query: ", "document": "passage: "},
        max_active_dims=40 if pooling == "sum" else None,
    )
    model.save(str(target), create_model_card=False)
    if saved_as == "MLMTransformer":
        path = target / "modules.json"
        modules = json.loads(path.read_text())
        modules[0]["type"] = "sentence_transformers.sparse_encoder.models.MLMTransformer"
        modules[1]["type"] = "sentence_transformers.sparse_encoder.models.SpladePooling"
        path.write_text(json.dumps(modules))
        (target / "sentence_bert_config.json").write_text('{"max_seq_length": 512, "do_lower_case": false}')
    return target


@pytest.mark.parametrize("outtype", OUTTYPES)
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("form", ["plain", "untied_biases", "odd_vocabulary"])
def test_sparse_is_sentence_transformers(form: str, pooling: str, activation: str, outtype: OutType) -> None:
    import torch
    from sentence_transformers import SparseEncoder

    source = sparse_folder(form, pooling, activation, "Transformer")
    theirs = SparseEncoder(str(source), model_kwargs={"dtype": torch.float64, "attn_implementation": "eager"})
    model = SparseEmbedder(
        convert(source, source.with_suffix(f".{outtype}.gguf"), outtype=outtype, show_progress=False)
    )
    texts = [*TEXTS[:5], *random_texts(5)]
    # batches of one: eager attention gives NaN for padding that is further from a text than the local window
    largest = max(np.abs(logits_of(form, text)).max() for text in texts)
    encoders = ((None, theirs.encode), ("query", theirs.encode_query), ("document", theirs.encode_document))
    for name, encode in encoders if outtype == "f32" else encoders[:1]:
        full = dense(encode(texts, max_active_dims=model.dim, batch_size=1))
        ours = model.embed(texts, prompt_name=name, max_active_dims=model.dim)
        difference = np.abs(ours.to_dense() - full)
        if outtype == "f32":
            assert difference.max() < 1e-5 * full.max()
        counts = np.array([[1 if pooling == "max" else len(model.tokenize(text)) + 8] for text in texts])
        assert (difference < BARS[outtype] * largest * counts).all()
        pruned = model.embed(texts, prompt_name=name, max_active_dims=7)
        assert np.diff(pruned.indptr).tolist() == [7] * len(texts)
        if outtype == "f32":
            best = dense(encode(texts, max_active_dims=7, batch_size=1))
            assert ((best > 0) == (pruned.to_dense() > 0)).all()
            own = dense(encode(texts, batch_size=1))
            assert ((own > 1e-6) == (model.embed(texts, prompt_name=name).to_dense() > 1e-6)).all()
    assert model.max_active_dims == theirs.max_active_dims
    if outtype == "f32":
        a, b = model.embed(texts), theirs.encode(texts, batch_size=1)
        assert model.similarity(a, a) == pytest.approx(theirs.similarity(b, b).numpy(), rel=1e-5, abs=1e-5)
        assert model.similarity(a[0], a) == pytest.approx(theirs.similarity(b[0], b).numpy(), rel=1e-5, abs=1e-5)
        for mine, other in zip(model.decode(a, 5), theirs.decode(b, 5), strict=True):
            assert [token for token, _ in mine] == [token or "" for token, _ in other]
            assert [weight for _, weight in mine] == pytest.approx([weight for _, weight in other], rel=1e-5)
        assert model.decode(a[0]) == model.decode(a)[0]


def test_a_bare_masked_language_model_is_pooled_by_the_maximum() -> None:
    import torch
    from sentence_transformers import SparseEncoder

    theirs = SparseEncoder(str(folder("plain")), model_kwargs={"dtype": torch.float64})
    model = SparseEmbedder(file("plain", "f32"))
    assert model.embed(TEXTS).to_dense() == pytest.approx(
        dense(theirs.encode(list(TEXTS), batch_size=1)), rel=1e-5, abs=1e-5
    )


def test_a_folder_of_sentence_transformers_5_0() -> None:
    new = read_checkpoint(sparse_folder("plain", "max", "relu", "Transformer"))
    old = read_checkpoint(sparse_folder("plain", "max", "relu", "MLMTransformer"))
    assert new.task == old.task == "sparse-embedding"
    assert new.pipeline == old.pipeline


def test_the_sparse_matrix() -> None:
    scipy = pytest.importorskip("scipy.sparse")
    model = SparseEmbedder(file("plain", "f32"))
    result = model.embed(TEXTS)
    matrix = result.to_scipy()
    assert isinstance(matrix, scipy.csr_matrix)
    assert matrix.shape == result.shape == (len(TEXTS), model.dim)
    assert (matrix.toarray() == result.to_dense()).all()
    assert model.similarity(result, result) == pytest.approx((matrix @ matrix.T).toarray(), rel=1e-5)
    alone = model.embed(TEXTS[0])
    assert (alone.indices == result[0].indices).all()
    assert alone.weights == pytest.approx(result[-len(TEXTS)].weights, abs=1e-5)
    assert len(list(result)) == len(TEXTS)
    with pytest.raises(IndexError):
        result[len(TEXTS)]
    empty = model.embed([])
    assert (empty.shape, empty.to_scipy().shape) == ((0, model.dim), (0, model.dim))
    assert model.similarity(empty, result).shape == (0, len(TEXTS))
    assert model.decode(empty) == []


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_are_those_of_dense_rows(name: str) -> None:
    from modernbert_llama.similarity import similarity
    from modernbert_llama.sparse_embeddings import sparse_similarity

    result = SparseEmbedder(file("plain", "f32")).embed(TEXTS, max_active_dims=50)
    rows = result.to_dense()
    assert sparse_similarity(name, result, result) == pytest.approx(similarity(name, rows, rows), rel=1e-5, abs=1e-5)


def test_sparse_refuses() -> None:
    model = SparseEmbedder(file("plain", "f32"))
    bad: list[Any] = [["a", 3], "\ud800", b"a", None]
    for texts in bad:
        with pytest.raises(InputError):
            model.embed(texts)
    options: list[dict[str, Any]] = [
        {"max_active_dims": 0},
        {"max_active_dims": True},
        {"prompt_name": "other"},
        {"max_length": 10**9},
    ]
    for option in options:
        with pytest.raises(InputError):
            model.embed("a", **option)
    with pytest.raises(TooLongError):
        model.embed("word " * 2000, truncate=False)
    with pytest.raises(InputError):
        model.decode(model.embed("a"), 0)


def test_the_right_class() -> None:
    assert type(load(file("plain", "f32"))) is MaskedLM
    sparse = convert(
        sparse_folder("plain", "max", "relu", "Transformer"), scratch() / "right.gguf", show_progress=False
    )
    assert type(load(sparse)) is SparseEmbedder
    with pytest.raises(InputError, match="use SparseEmbedder"):
        Embedder(sparse)
    assert Embedder(file("plain", "f32")).embed("a masked language model embeds too").shape == (64,)


def test_folders_that_are_no_sparse_encoder(tmp_path: Path) -> None:
    import shutil

    def changed(name: str, **values: Any) -> Path:
        target = tmp_path / "copy"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(sparse_folder("plain", "max", "relu", "Transformer"), target)
        path = target / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
        return target

    with pytest.raises(UnsupportedError, match="mean"):
        read_checkpoint(changed("1_SpladePooling/config.json", pooling_strategy="mean"))
    with pytest.raises(UnsupportedError, match="swish"):
        read_checkpoint(changed("1_SpladePooling/config.json", activation_function="swish"))
    with pytest.raises(UnsupportedError, match="whatever"):
        read_checkpoint(changed("1_SpladePooling/config.json", whatever=1))
    with pytest.raises(CheckpointError, match="embedding_dimension"):
        read_checkpoint(changed("1_SpladePooling/config.json", embedding_dimension=7))
    with pytest.raises(UnsupportedError):
        read_checkpoint(changed("config.json", architectures=["ModernBertModel"]))
    with pytest.raises(UnsupportedError, match="masked language model"):
        read_checkpoint(changed("config_sentence_transformers.json", model_type="SentenceTransformer"))


def run_cli(*arguments: str | Path) -> list[Any]:
    program = [sys.executable, "-m", "modernbert_llama.cli", *map(str, arguments)]
    result = subprocess.run(program, capture_output=True, text=True, timeout=300, check=True)
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_command_line(tmp_path: Path) -> None:
    path = file("plain", "f32")
    model = MaskedLM(path)
    texts = ["The river [MASK].", "[MASK] and [MASK]"]
    expected = [{"text": text, "fills": fills} for text, fills in zip(texts, model.fill(texts, top_k=2), strict=True)]
    assert run_cli("fill", path, *texts, "--top-k", "2") == expected
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert run_cli("fill", path, "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl") == []
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines == [{"text": text, "fills": fills} for text, fills in zip(texts, model.fill(texts), strict=True)]
    only = run_cli("fill", path, texts[0], "--target", "e", "--target", "s")
    assert sorted(fill["token_str"] for fill in only[0]["fills"]) == ["e", "s"]
    program = [sys.executable, "-m", "modernbert_llama.cli", "fill", str(path), "[MASK]", "--per-channel"]
    refused = subprocess.run(program, capture_output=True, text=True, timeout=300, check=False)
    assert refused.returncode == 1
    assert "per_channel is " in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "all_biases", "no_decoder_bias"])
def test_stock_embeds_with_a_tied_file(form: str) -> None:
    """And does not see the head. Its own limits: no biases, and no pooling but by the file."""
    program = (
        "import sys, llama_cpp; model = llama_cpp.Llama(model_path=sys.argv[1], embedding=True, verbose=False); "
        "print(model.embed('a river', normalize=False))"
    )
    path = os.pathsep.join([str(stock_llama()), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    result = subprocess.run(
        [sys.executable, "-c", program, str(file(form, "f32"))],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if form == "all_biases":
        assert result.returncode != 0  # the encoder's biases, not the head
        return
    assert result.returncode == 0, result.stderr[-2000:]
    ours = Embedder(file(form, "f32")).embed("a river", normalize=False)
    assert cosine_distance(np.array(json.loads(result.stdout)), ours) < 1e-5

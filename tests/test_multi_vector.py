"""MultiVectorEmbedder: equal to PyLate and sentence-transformers in float64, every form; MaxSim; what a caller sees."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from family import golden_file, rebuild
from gguf_edit import rewrite
from late import DOCUMENTS, LATE_ROWS, QUERIES
from models import gguf, scratch
from modernbert_llama import Embedder, MultiVectorEmbedder, convert, keys, load, maxsim
from modernbert_llama.checkpoint import read_checkpoint
from modernbert_llama.describe import describe
from modernbert_llama.errors import CheckpointError, InputError, ModelFileError, TooLongError, TruncationWarning
from modernbert_llama.late_scores import pack, unpack
from numpy.typing import NDArray
from specs import relative_error
from tiny_checkpoint import edit_json

OutType = Literal["f32", "bf16", "q8_0"]
NAME = pytest.mark.parametrize("name", LATE_ROWS)
Q8_0_BAR = 0.045  # of the relative L2 error: 1 - cosine of 1e-3
quiet = pytest.mark.filterwarnings("ignore::modernbert_llama.errors.TruncationWarning")


@functools.cache
def folder(name: str) -> Path:
    return rebuild(LATE_ROWS[name].encoder, scratch() / "late" / name.replace(" ", "_"))


@functools.cache
def golden(name: str) -> dict[str, NDArray[Any]]:
    with np.load(golden_file(LATE_ROWS[name].encoder)) as file:
        return {key: file[key] for key in file.files}


@functools.lru_cache(maxsize=4)
def embedder(name: str, outtype: OutType = "f32") -> MultiVectorEmbedder:
    file = scratch() / f"late-{name.replace(' ', '_')}-{outtype}.gguf"
    return MultiVectorEmbedder(convert(folder(name), file, outtype=outtype, show_progress=False))


def exact(name: str, kind: str) -> list[NDArray[np.float64]]:
    return np.split(golden(name)[kind], np.cumsum(golden(name)[f"{kind}-lengths"])[:-1])


def errors(name: str, outtype: OutType) -> tuple[float, float]:
    """The relative L2 error of all vectors of queries and documents together, and of MaxSim scores the largest."""
    model, own = embedder(name, outtype), golden(name)
    packed = {
        "queries": model.embed_queries(QUERIES, packed=True),
        "documents": model.embed_documents(DOCUMENTS, packed=True),
    }
    vectors = max(relative_error(rows, own[kind]) for kind, (rows, _) in packed.items())
    expected = naive_maxsim(exact(name, "queries"), exact(name, "documents"))
    scores = maxsim(packed["queries"], packed["documents"])
    return vectors, float((np.abs(scores - expected) / np.abs(expected)).max())


def naive_maxsim(queries: Any, documents: Any) -> NDArray[np.float64]:
    return np.array(
        [
            [float((np.asarray(q, np.float64) @ np.asarray(d, np.float64).T).max(axis=1).sum()) for d in documents]
            for q in queries
        ]
    )


@quiet
@NAME
@pytest.mark.parametrize("outtype", ["f32", "bf16", "q8_0"])
def test_equals_the_reference(name: str, outtype: OutType) -> None:
    model = embedder(name, outtype)
    vectors = {"queries": model.embed_queries(QUERIES), "documents": model.embed_documents(DOCUMENTS)}
    for kind, ours in vectors.items():
        expected, own = exact(name, kind), golden(name)
        assert [item.shape for item in ours] == [item.shape for item in expected]
        bar = {"f32": 1e-5, "bf16": float(own[f"{kind}-bfloat16"]), "q8_0": Q8_0_BAR}[outtype]
        for a, b in zip(ours, expected, strict=True):
            assert a.dtype == np.float32
            assert len(b) == 0 or relative_error(a, b) <= bar
    if outtype == "f32":
        scores = maxsim(vectors["queries"], vectors["documents"])
        expected_scores = naive_maxsim(exact(name, "queries"), exact(name, "documents"))
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)
        np.testing.assert_array_equal(np.argsort(-scores, axis=1), np.argsort(-expected_scores, axis=1))


@NAME
def test_properties_and_inspect(name: str) -> None:
    row, model = LATE_ROWS[name], embedder(name)
    assert model.dim == row.dense[-1][0]
    options = row.options
    asked = options.get("query_length") or options.get("query_maxlen") or options["query_expansion"]["length"]
    assert model.query_length == asked
    facts = {(section, key): value for section, key, value in describe(model._path).facts}
    assert facts["pipeline", "kind"] == "multi-vector embedding: one vector a token"
    assert isinstance(load(model._path), MultiVectorEmbedder)


@quiet
def test_shapes_and_packing() -> None:
    model = embedder("GTE-ModernColBERT")
    one = model.embed_queries("river")
    assert one.shape == (32, 32)
    np.testing.assert_array_equal(model.embed_queries(["river"])[0], one)
    assert model.embed_queries([]) == []
    rows, offsets = model.embed_documents(list(DOCUMENTS), packed=True)
    assert rows.dtype == np.float32
    assert offsets.dtype == np.int64
    for a, b in zip(unpack(rows, offsets), model.embed_documents(DOCUMENTS), strict=True):
        np.testing.assert_array_equal(a, b)
    rows, offsets = model.embed_documents([], packed=True)
    assert rows.shape == (0, 32)
    assert offsets.tolist() == [0]
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, rtol=1e-6)


def test_many_documents_are_as_one_by_one() -> None:
    model = embedder("MultiVectorEncoder, at least")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["sun", "moon.", "river?", "stone"], rng.integers(0, 200))) for _ in range(300)]
    together = model.embed_documents(texts)
    for i in (0, 1, 150, 298, 299):
        np.testing.assert_allclose(together[i], model.embed_documents(texts[i]), rtol=1e-4, atol=1e-6)


def test_prompts() -> None:
    model = embedder("MultiVectorEncoder, not normalised")
    asked = model.embed_queries("river")
    np.testing.assert_array_equal(asked, model.embed_queries("river", prompt="query: "))
    np.testing.assert_array_equal(asked, model.embed_queries("query: river", prompt=""))
    np.testing.assert_array_equal(asked, model.embed_queries("river", prompt_name="query"))
    with pytest.raises(InputError, match="no prompt 'other'"):
        model.embed_queries("river", prompt_name="other")
    with pytest.raises(InputError, match="not both"):
        model.embed_queries("river", prompt_name="query", prompt="x")


@quiet
def test_rank() -> None:
    model = embedder("GTE-ModernColBERT")
    scores = model.similarity([model.embed_queries("river")], model.embed_documents(DOCUMENTS))[0]
    ranked = model.rank("river", DOCUMENTS)
    assert [result["corpus_id"] for result in ranked] == np.argsort(-scores, kind="stable").tolist()
    assert [result["score"] for result in ranked] == sorted(map(float, scores), reverse=True)
    texts = [result["text"] for result in model.rank("river", DOCUMENTS, return_documents=True)]
    assert texts == [DOCUMENTS[result["corpus_id"]] for result in ranked]
    assert model.rank("river", DOCUMENTS, top_k=2) == ranked[:2]
    assert model.rank("river", []) == []
    with pytest.raises(InputError, match="top_k"):
        model.rank("river", DOCUMENTS, top_k=0)
    with pytest.raises(InputError, match="one string"):
        model.rank("river", "stone")
    with pytest.raises(InputError, match="query is int"):
        model.rank(1, DOCUMENTS)  # type: ignore[arg-type]


def test_what_is_too_long() -> None:
    model = MultiVectorEmbedder(embedder("PyLate, no expansion")._path)
    with pytest.warns(TruncationWarning, match=r"1 text\(s\) cut to 12 tokens") as warned:
        assert len(model.embed_queries("river " * 50)) == 12
    assert warned[0].filename == __file__
    assert model.n_truncated == 1
    with pytest.raises(TooLongError, match="text 1"):
        model.embed_documents(["river", "stone " * 100], truncate=False)


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        (["a", 1], "text 1 is int"),
        (b"a", "texts is bytes"),
        (7, "texts is int"),
        (["a", "b\udfff"], "text 1 holds a lone surrogate"),
    ],
)
def test_bad_texts(texts: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        embedder("Stanford").embed_queries(texts)
    with pytest.raises(InputError, match=match):
        embedder("Stanford").embed_documents(texts)


def test_the_class_for_the_file() -> None:
    with pytest.raises(InputError, match="is a multi-vector embedder: use MultiVectorEmbedder"):
        Embedder(embedder("Stanford")._path)
    with pytest.raises(InputError, match="is a text embedder: use Embedder"):
        MultiVectorEmbedder(gguf("tiny"))


# --- the converter and the file ---------------------------------------------------------------------------------------


def copy(name: str, target: Path) -> Path:
    return rebuild(LATE_ROWS[name].encoder, target)


def test_what_cannot_be_converted(tmp_path: Path) -> None:
    marker = copy("PyLate, no expansion", tmp_path / "marker")
    edit_json(marker / "config_sentence_transformers.json", query_prefix="[Query] ")
    with pytest.raises(CheckpointError, match=r"the marker '\[Query\] ' is no token"):
        read_checkpoint(marker)
    kept = copy("MultiVectorEncoder", tmp_path / "kept")
    edit_json(kept / "2_MultiVectorMask" / "config.json", keep_only_token_ids=[3])
    with pytest.raises(CheckpointError, match="keep_only_token_ids"):
        read_checkpoint(kept)
    pooled = copy("MultiVectorEncoder", tmp_path / "pooled")
    modules = json.loads((pooled / "modules.json").read_text(encoding="utf-8"))
    path = "sentence_transformers.multi_vector_encoder.modules.token_pooling.HierarchicalTokenPooling"
    modules.append({"idx": 4, "name": "4", "path": "4_Pooling", "type": path})
    (pooled / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(CheckpointError, match="HierarchicalTokenPooling"):
        read_checkpoint(pooled)
    unmasked = copy("MultiVectorEncoder", tmp_path / "unmasked")
    modules = [m for m in modules[:4] if "Mask" not in m["type"]]
    (unmasked / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(CheckpointError, match="without a MultiVectorMask"):
        read_checkpoint(unmasked)
    bare = copy("Stanford", tmp_path / "bare")
    edit_json(bare / "artifact.metadata", query_token_id="[no such]")
    with pytest.raises(CheckpointError, match=r"'\[no such\]' is no token"):
        read_checkpoint(bare)


@quiet
def test_older_pylate_and_mean_scores(tmp_path: Path) -> None:
    """Files without model_type, and a similarity that divides by the query's tokens."""
    older = copy("PyLate, no expansion", tmp_path / "older")
    edit_json(older / "config_sentence_transformers.json", model_type=..., similarity_fn_name="meanmaxsim")
    model = MultiVectorEmbedder(convert(older, tmp_path / "older.gguf", show_progress=False))
    queries, documents = model.embed_queries(QUERIES), model.embed_documents(DOCUMENTS)
    np.testing.assert_array_equal(queries[0], embedder("PyLate, no expansion").embed_queries(QUERIES)[0])
    counts = np.array([len(item) for item in queries])[:, None]
    np.testing.assert_allclose(model.similarity(queries, documents), maxsim(queries, documents) / counts, rtol=1e-6)


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"query": {}}', '{"query": {"skip": []}, "document": {"skip": [-1]}}', "[" * 100000],
)
def test_damaged_roles(tmp_path: Path, text: str) -> None:
    file = rewrite(embedder("Stanford")._path, tmp_path / "damaged.gguf", metadata={keys.MULTI_VECTOR: text})
    with pytest.raises(ModelFileError, match="multi_vector"):
        MultiVectorEmbedder(file)


def test_missing_roles(tmp_path: Path) -> None:
    file = rewrite(embedder("Stanford")._path, tmp_path / "missing.gguf", metadata={keys.MULTI_VECTOR: None})
    with pytest.raises(ModelFileError, match="multi_vector' is missing"):
        MultiVectorEmbedder(file)


# --- MaxSim -----------------------------------------------------------------------------------------------------------


def random_vectors(rng: np.random.Generator, lengths: list[int], dim: int) -> list[NDArray[np.float32]]:
    return [rng.normal(size=(n, dim)).astype(np.float32) for n in lengths]


def test_maxsim_equals_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for trial in range(300):
        monkeypatch.setattr("modernbert_llama.late_scores._BLOCK", int(rng.choice([1, 50, 1 << 20])))
        queries = random_vectors(rng, rng.integers(1, 9, rng.integers(1, 5)).tolist(), 8)
        documents = random_vectors(rng, rng.integers(1, 30, rng.integers(1, 12)).tolist(), 8)
        expected = naive_maxsim(queries, documents)
        np.testing.assert_allclose(maxsim(queries, documents), expected, rtol=1e-5, atol=1e-5, err_msg=str(trial))
        np.testing.assert_allclose(maxsim(pack(queries, 8), pack(documents, 8)), expected, rtol=1e-5, atol=1e-5)


def test_maxsim_of_nothing() -> None:
    rng = np.random.default_rng(1)
    queries, documents = random_vectors(rng, [2, 0, 3], 4), random_vectors(rng, [0, 5, 0, 2, 0], 4)
    scores = maxsim(queries, documents)
    assert scores.shape == (3, 5)
    assert not scores[1].any()
    assert not scores[:, [0, 2, 4]].any()
    np.testing.assert_allclose(scores[0, 1], (queries[0] @ documents[1].T).max(axis=1).sum(), rtol=1e-5)
    assert maxsim([], documents).shape == (0, 5)
    assert maxsim(queries, []).shape == (3, 0)
    assert maxsim(documents[:1], queries[1:2]).tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("queries", "documents", "match"),
    [
        ([np.ones((2, 3))], [np.ones((2, 4))], "3 wide and documents 4"),
        ([np.ones(3)], [np.ones((2, 3))], r"queries\[0\] has shape \(3,\)"),
        ([np.ones((2, 3))], [np.ones((2, 3)), np.ones((2, 4))], r"documents\[1\] has shape \(2, 4\)"),
        ([np.ones((2, 3))], (np.ones((2, 3)), np.array([0, 1])), "offsets of documents"),
        ([np.ones((2, 3))], (np.ones((2, 3)), np.array([0, 3, 2])), "offsets of documents"),
        ([np.ones((2, 3))], (np.ones((2, 3)), np.array([0.0, 2.0])), "offsets of documents"),
    ],
)
def test_maxsim_of_what_does_not_fit(queries: Any, documents: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        maxsim(queries, documents)


# --- live -------------------------------------------------------------------------------------------------------------


@quiet
@pytest.mark.live
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", [name for name, row in LATE_ROWS.items() if row.maker != "pylate"])
def test_equals_sentence_transformers_here_and_now(name: str) -> None:
    pytest.importorskip("sentence_transformers", minversion="6")
    from make_late import build, encode

    row = LATE_ROWS[name]
    source = build(row, scratch() / "late-live" / name.replace(" ", "_"))
    expected = encode(row, source)["float64"]
    model = MultiVectorEmbedder(convert(source, scratch() / "late-live.gguf", show_progress=False))
    for kind, run, texts in (
        ("queries", model.embed_queries, QUERIES),
        ("documents", model.embed_documents, DOCUMENTS),
    ):
        rows, offsets = run(texts, packed=True)
        assert np.diff(offsets).tolist() == expected[f"{kind}-lengths"].tolist()
        assert relative_error(rows, expected[kind]) <= 1e-5

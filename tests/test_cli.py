"""The command line as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import checkpoint, gguf
from modernbert_llama import Reranker
from modernbert_llama.convert import convert
from modernbert_llama.embedder import Embedder
from test_sequence_heads import folder as head_folder
from test_sequence_heads import gguf as head_gguf
from test_token_classifier import folder as tagger_folder


def run(*arguments: str | Path, code: int = 0, stdin: str = "") -> tuple[str, str]:
    result = subprocess.run(
        [sys.executable, "-m", "modernbert_llama.cli", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def model() -> Path:
    return gguf("granite-small")


def test_help_lists_every_verb() -> None:
    output, _ = run("--help")
    for verb in (
        "convert",
        "embed",
        "rerank",
        "classify",
        "tag",
        "fill",
        "quantize",
        "inspect",
        "compare",
        "demo",
        "patches",
    ):
        assert verb in output


def test_convert(tmp_path: Path) -> None:
    output, _ = run(
        "convert", checkpoint("tiny"), "-o", tmp_path / "x.gguf", "--outtype", "q8_0", "--arch", "modernbert"
    )
    assert "x.gguf" in output
    assert Embedder(tmp_path / "x.gguf").metadata["general.architecture"] == "modernbert"
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_convert_says_what_is_wrong(tmp_path: Path) -> None:
    _, error = run("convert", tmp_path, "-o", tmp_path / "x.gguf", code=1)
    assert error.startswith("modernbert-llama: ")
    assert "config.json" in error
    assert "Traceback" not in error


def test_embed_prints_json_lines(model: Path) -> None:
    output, _ = run("embed", model, "hello", "the river")
    lines = [json.loads(line) for line in output.splitlines()]
    assert [line["text"] for line in lines] == ["hello", "the river"]
    vectors = np.array([line["embedding"] for line in lines], np.float32)
    np.testing.assert_allclose(vectors, Embedder(model).embed(["hello", "the river"]), atol=1e-6)


@pytest.mark.parametrize("precision", ["int8", "ubinary"])
def test_embed_writes_other_precisions(model: Path, tmp_path: Path, precision: Any) -> None:
    lines = tmp_path / "in.txt"
    texts = [f"text number {i}" for i in range(300)]  # more than a block
    lines.write_text("\n".join(texts) + "\n", encoding="utf-8")
    run("embed", model, "-i", lines, "-o", tmp_path / "out.npy", "--precision", precision)
    found, expected = np.load(tmp_path / "out.npy"), Embedder(model).embed(texts, precision=precision)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert (found == expected).mean() > 0.999  # batches differ in the last bit, which can lie on an edge


def test_embed_reads_and_writes_files(model: Path, tmp_path: Path) -> None:
    lines = tmp_path / "in.txt"
    lines.write_text("hello\nthe\u2028river\n\nlast\n", encoding="utf-8")
    run("embed", model, "--input", lines, "--output", tmp_path / "out.npy", "--dimensions", "32", "--no-normalize")
    expected = Embedder(model).embed(["hello", "the\u2028river", "", "last"], dimensions=32, normalize=False)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-6)

    items = tmp_path / "in.jsonl"
    items.write_text('"hello"\n{"text": "the river", "id": 4}\n')
    run("embed", model, "-i", items, "-o", tmp_path / "out.jsonl")
    found = [json.loads(line)["text"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert found == ["hello", "the river"]

    output, _ = run("embed", model, "-i", "-", stdin="from a pipe\n")
    assert json.loads(output)["text"] == "from a pipe"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "in.txt", "out.jsonl", "out.npy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give texts or --input"),
        (["x", "--output", "x.csv"], "expected a .npy or .jsonl file"),
        (["x", "--prompt-name", "nothing"], "no prompt 'nothing'"),
        (["x", "--dimensions", "0"], "dimensions is 0"),
        (["--input", "nowhere.txt"], "cannot be read"),
    ],
)
def test_embed_says_what_is_wrong(model: Path, arguments: list[str], message: str) -> None:
    output, error = run("embed", model, *arguments, code=1)
    assert output == ""
    assert message in error
    assert "Traceback" not in error


def test_embed_names_the_bad_line(model: Path, tmp_path: Path) -> None:
    items = tmp_path / "in.jsonl"
    items.write_text('"hello"\n{"id": 4}\n')
    _, error = run("embed", model, "-i", items, "-o", tmp_path / "out.npy", code=1)
    assert "line 2" in error
    assert not (tmp_path / "out.npy").exists()


def test_rerank(tmp_path: Path) -> None:
    reranker = head_gguf(head_folder("logits of one label"), "f32")
    items = tmp_path / "in.jsonl"
    items.write_text('"the river"\n{"text": "a dog", "id": 4}\n"hills"\n')
    output, _ = run("rerank", reranker, "where is it?", "-i", items, "--top-k", "2")
    found = [json.loads(line) for line in output.splitlines()]
    expected = Reranker(reranker).rank("where is it?", ["the river", "a dog", "hills"], top_k=2, return_documents=True)
    assert [(line["corpus_id"], line["text"]) for line in found] == [(x["corpus_id"], x["text"]) for x in expected]
    np.testing.assert_allclose([line["score"] for line in found], [x["score"] for x in expected], rtol=1e-5)
    run("rerank", reranker, "q", "a", "b", "--raw", "-o", tmp_path / "out.jsonl")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    assert "expected a .jsonl file" in run("rerank", reranker, "q", "a", "-o", "out.csv", code=1)[1]
    assert "give texts or --input" in run("rerank", reranker, "q", code=1)[1]


def test_classify(tmp_path: Path) -> None:
    classifier = head_gguf(head_folder("three labels, mean"), "f32")
    items = tmp_path / "in.jsonl"
    items.write_text('"the river"\n{"text": "a dog", "text_pair": "a cat"}\n["a", "b"]\n')
    output, _ = run("classify", classifier, "-i", items)
    found = [json.loads(line) for line in output.splitlines()]
    assert [(line["text"], line.get("text_pair")) for line in found] == [
        ("the river", None),
        ("a dog", "a cat"),
        ("a", "b"),
    ]
    assert all({x["label"] for x in line["labels"]} == {"entailment", "neutral", "contradiction"} for line in found)
    np.testing.assert_allclose([sum(x["score"] for x in line["labels"]) for line in found], 1, rtol=1e-5)
    output, _ = run("classify", classifier, "a text", "--top-k", "1")
    assert len(json.loads(output)["labels"]) == 1
    items.write_text('"fine"\n["a", 7]\n')
    assert "line 2" in run("classify", classifier, "-i", items, code=1)[1]


def test_the_wrong_kind_of_model(model: Path) -> None:
    _, error = run("rerank", model, "q", "a", code=1)
    assert "use Embedder, not Reranker" in error


def model_for(verb: str, folder: Path) -> Path:
    if verb == "tag":
        return convert(tagger_folder("tagger"), folder / "tagger.gguf", show_progress=False)
    name = {"rerank": "logits of one label", "classify": "three labels, mean"}
    return head_gguf(head_folder(name[verb]), "f32") if verb in name else gguf("granite-small")


@pytest.mark.parametrize("verb", ["embed", "rerank", "classify", "tag"])
def test_per_channel_reaches_the_model(verb: str, tmp_path: Path) -> None:
    """Which refuses it: the file is of F32."""
    texts = ["a river"] if verb != "rerank" else ["what?", "a river"]
    _, error = run(verb, model_for(verb, tmp_path), *texts, "--per-channel", code=1)
    assert "per_channel is " in error


def test_inspect(model: Path) -> None:
    output, _ = run("inspect", model)
    for part in ("modern-bert", "384", "12"):
        assert part in output


def test_patches_forwards() -> None:
    output, _ = run("patches", "list")
    assert "modernbert-add-llm-arch-modernbert" in output


def test_demo(tmp_path: Path) -> None:
    output, _ = run("demo", "--folder", tmp_path)
    assert (tmp_path / "demo-f32.gguf").is_file()
    assert "cosine" in output

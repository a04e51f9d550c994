"""The command line as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models import checkpoint, gguf
from modernbert_llama.embedder import Embedder


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
    for verb in ("convert", "embed", "inspect", "compare", "demo", "patches"):
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

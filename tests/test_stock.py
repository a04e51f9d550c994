"""Beside a stock llama-cpp-python: our files in it, and both libraries in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from models import embedder, gguf
from modernbert_llama.embedder import Embedder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
STOCK = ROOT / "build" / "stock-0.3.36"


@pytest.fixture(scope="session")
def stock() -> Path:
    """A folder to put on PYTHONPATH, with llama-cpp-python 0.3.36 as its own build makes it."""
    if not (STOCK / "llama_cpp").is_dir():
        target = STOCK.with_suffix(".partial")
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--target", target, "--upgrade", "llama-cpp-python==0.3.36"],
            check=True,
        )
        target.rename(STOCK)
    return STOCK


def run(stock: Path, program: str) -> str:
    path = os.pathsep.join([str(stock), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


STOCK_EMBED = """
    import json, llama_cpp
    llama = llama_cpp.Llama(model_path={path!r}, embedding=True, n_ctx=512, n_batch=512, n_ubatch=512, verbose=False)
    print(json.dumps([llama.embed(text, normalize=False) for text in {texts!r}]))
"""
TEXTS = ["the river and the stone", "A dog is sleeping under the table. " * 8, "1234 + 5678 = 6912"]


@pytest.mark.parametrize(
    ("name", "outtype", "limit"), [("granite-small", "f32", 1e-5), ("granite-small", "q8_0", 1e-3)]
)
def test_the_default_file_gives_the_same_embeddings_in_stock(
    stock: Path, name: str, outtype: str, limit: float
) -> None:
    path = gguf(name, outtype)
    theirs = np.array(json.loads(run(stock, STOCK_EMBED.format(path=str(path), texts=TEXTS)))).reshape(len(TEXTS), -1)
    ours = Embedder(path).embed(TEXTS, normalize=False)
    cosine = (theirs * ours).sum(1) / np.linalg.norm(theirs, axis=1) / np.linalg.norm(ours, axis=1)
    # stock computes GELU in the tanh form through a half-precision table, and keys and values in half precision
    assert np.all(1 - cosine <= limit), 1 - cosine


@pytest.mark.parametrize("first", ["ours", "stock"])
def test_both_libraries_in_one_process(stock: Path, first: str) -> None:
    path = gguf("tiny", "f32", "modernbert")  # an architecture that stock does not know
    file = gguf("granite-small")
    ids = embedder("tiny", "f32", "modernbert").tokenize("hello")
    imports = ["from modernbert_llama import Embedder", "import llama_cpp"]
    if first == "stock":
        imports.reverse()
    output = run(
        stock,
        f"""
        {imports[0]}
        {imports[1]}
        ours = Embedder({str(path)!r})
        theirs = llama_cpp.Llama(model_path={str(file)!r}, embedding=True, verbose=False)
        assert len(theirs.embed("hello")) == 384
        assert ours.embed_tokens([{ids}]).shape == (1, 256)
        try:
            llama_cpp.Llama(model_path={str(path)!r}, embedding=True, verbose=False)
        except ValueError:
            print("stock refuses")
        maps = open("/proc/self/maps").read() if __import__("os").path.exists("/proc/self/maps") else ""
        assert not maps or ("libllama-modernbert" in maps and "llama_cpp/lib/libllama.so" in maps)
        print(ours.embed_tokens([{ids}])[0, :4].tolist())
        """.replace("\n        ", "\n"),
    )
    lines = output.strip().splitlines()
    assert lines[0] == "stock refuses"
    np.testing.assert_allclose(
        json.loads(lines[1]), embedder("tiny", "f32", "modernbert").embed_tokens([ids])[0, :4], rtol=1e-5
    )

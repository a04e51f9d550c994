"""Beside a stock llama-cpp-python: our files in it, and both libraries in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from form_checkpoint import form_checkpoint
from gguf import GGUFValueType
from gguf_edit import copy_of, finish
from models import embedder, gguf, scratch, stock_llama
from modernbert_llama import Embedder, Reranker, convert, keys
from modernbert_llama.steps import Dense, encode_steps
from modernbert_llama.synthetic import CheckpointSpec, write_checkpoint
from modernbert_llama.tokenizer import HuggingFaceTokenizer, encode_pairs_within
from sequence_heads import PAIRS
from specs import cosine_distance
from test_sequence_heads import folder as head_folder
from test_sequence_heads import gguf as head_gguf
from tokenizer_forms import FORMS, corpus

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def stock() -> Path:
    """A folder to put on PYTHONPATH, with llama-cpp-python 0.3.36 of its own build."""
    return stock_llama()


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


def test_yarn_of_the_global_layers_in_stock(stock: Path, tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    spec = CheckpointSpec("yarn", 4, 128, 192, 4, global_scaling=yarn, seed=60)
    path = convert(write_checkpoint(tmp_path / "yarn", spec), tmp_path / "yarn.gguf", show_progress=False)
    theirs = np.array(json.loads(run(stock, STOCK_EMBED.format(path=str(path), texts=TEXTS)))).reshape(len(TEXTS), -1)
    ours = Embedder(path).embed(TEXTS, normalize=False)
    assert max(map(cosine_distance, theirs, ours)) <= 1e-5


def test_modules_in_keys_leave_a_file_that_stock_loads(stock: Path, tmp_path: Path) -> None:
    plain = gguf("granite-small")
    text, arrays = encode_steps([Dense("Tanh", np.eye(8, 384, dtype=np.float32))])
    keyed = tmp_path / "keys.gguf"
    writer = copy_of(plain, keyed)
    writer.add_string(keys.ST_STEPS, text)
    for name, values in arrays.items():
        flat = values.ravel().tolist()
        writer.add_key_value(keys.ST_STEP_ARRAY + name, flat, GGUFValueType.ARRAY, GGUFValueType.FLOAT32)
    finish(writer)
    theirs = np.array(json.loads(run(stock, STOCK_EMBED.format(path=str(keyed), texts=TEXTS[:1]))))
    assert theirs.shape[-1] == 384  # the module is left out
    assert Embedder(keyed).embed(TEXTS[:1]).shape == (1, 8)

    # as a tensor, under the name that llama.cpp has for it in another architecture, it is refused
    tensor = tmp_path / "tensor.gguf"
    writer = copy_of(plain, tensor)
    writer.add_tensor("dense_2.weight", np.eye(8, 384, dtype=np.float32))
    finish(writer)
    program = f"import llama_cpp; llama_cpp.Llama(model_path={str(tensor)!r}, embedding=True)"
    with pytest.raises(AssertionError, match="wrong number of tensors"):
        run(stock, program)


STOCK_RERANK = """
    import json, llama_cpp
    llama = llama_cpp.Llama(model_path={path!r}, embedding=True, pooling_type=llama_cpp.LLAMA_POOLING_TYPE_RANK,
                            n_ctx=512, n_batch=512, n_ubatch=512, verbose=False)
    found = []
    for ids in {ids!r}:
        llama.tokenize = lambda text, ids=ids: ids
        found.append(llama.embed("")[:{n}])  # the rest is not ours to read: llama-cpp-python takes n_embd values
    print(json.dumps(found))
"""


@pytest.mark.parametrize("outtype", ["f32", "q8_0"])
@pytest.mark.parametrize(
    "name", ["granite-embedding-reranker-english-r2", "gte-reranker-modernbert-base", "three labels, mean"]
)
def test_reranking_of_stock_runs_on_our_files(stock: Path, name: str, outtype: Literal["f32", "q8_0"]) -> None:
    model = Reranker(head_gguf(head_folder(name), outtype))
    pairs = [pair for pair in PAIRS if len(pair[0]) + len(pair[1]) < 1000]
    assert model.info.tokenizer_json is not None
    tokenizer = HuggingFaceTokenizer(model.info.tokenizer_json, name)
    ids, _ = encode_pairs_within(tokenizer, pairs, 512, False)
    program = STOCK_RERANK.format(path=str(head_gguf(head_folder(name), outtype)), ids=ids, n=len(model.labels))
    theirs = np.array(json.loads(run(stock, program)))
    ours = model.score(pairs, raw=True).reshape(len(pairs), -1)
    # as above: stock's GELU, here in the head too, and its half-precision keys and values
    error = (np.abs(theirs - ours) / np.abs(ours).max(axis=0)).max()
    assert error <= {"f32": 0.01, "q8_0": 0.05}[outtype], error


def test_a_head_that_stock_lacks_leaves_a_file_that_embeds_there(stock: Path) -> None:
    path = head_gguf(head_folder("dense bias"), "f32")
    theirs = np.array(json.loads(run(stock, STOCK_EMBED.format(path=str(path), texts=TEXTS[:1]))))
    assert theirs.shape[-1] == 128


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


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.ggml is not None])
def test_every_kind_of_vocabulary_embeds_text_in_stock(stock: Path, name: str) -> None:
    pytest.importorskip("transformers")
    source = form_checkpoint(scratch() / f"stock-{name}", name)
    file = convert(source, scratch() / f"stock-{name}.gguf")
    ours = Embedder(file)
    texts = list(corpus()[:40])
    theirs = np.array(json.loads(run(stock, STOCK_EMBED.format(path=str(file), texts=texts)))).reshape(len(texts), -1)
    vectors = ours.embed(texts, normalize=False)
    cosine = (theirs * vectors).sum(1) / np.linalg.norm(theirs, axis=1) / np.linalg.norm(vectors, axis=1)
    # stock has no bytes for a unigram vocabulary, and takes Hangul apart in WordPiece
    share = 0.5 if name in ("ruri", "ruri-model", "charsmap-model", "wordpiece") else 0.0
    assert np.mean(1 - cosine > 1e-4) <= share, np.sort(1 - cosine)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.ggml is None])
def test_a_file_without_vocabulary_loads_in_stock(stock: Path, name: str) -> None:
    pytest.importorskip("transformers")
    source = form_checkpoint(scratch() / f"stock-{name}", name)
    file = convert(source, scratch() / f"stock-{name}.gguf")
    output = run(
        stock,
        f"""
        import llama_cpp
        llama = llama_cpp.Llama(model_path={str(file)!r}, embedding=True, verbose=False)
        print(llama.n_embd(), llama.n_vocab())
        """.replace("\n        ", "\n"),
    )
    assert output.split() == ["64", str(Embedder(file)._engine.n_vocab)]

"""What a caller of Embedder sees: shapes, order, prompts, dimensions, truncation, threads, Ctrl-C, the log."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from gguf_edit import rewrite
from models import checkpoint, embedder, gguf, scratch
from modernbert_llama import Embedder, convert, embed, keys
from modernbert_llama.embedder import Pooling
from modernbert_llama.errors import (
    InputError,
    ModelFileError,
    ModelNotFoundError,
    TooLongError,
    TruncationWarning,
)
from modernbert_llama.native import Engine
from modernbert_llama.precision import PRECISIONS, quantize_embeddings
from modernbert_llama.synthetic import CheckpointSpec, write_checkpoint
from texts import NASTY_TEXTS

SPEC = CheckpointSpec(
    "api", 3, 128, 192, 4, pooling="mean", prompts=(("query", "q: "), ("document", "d: ")), max_positions=128, seed=40
)


@pytest.fixture(scope="module")
def file() -> Path:
    folder = write_checkpoint(scratch() / "api", SPEC)
    return convert(folder, scratch() / "api.gguf", show_progress=False)


@pytest.fixture
def model(file: Path) -> Embedder:
    return Embedder(file)


def test_shapes(model: Embedder) -> None:
    one = model.embed("hello")
    assert one.shape == (128,)
    assert one.dtype == np.float32
    assert model.embed(["hello", "world"]).shape == (2, 128)
    assert model.embed([]).shape == (0, 128)
    assert model.embed(("hello",)).shape == (1, 128)
    np.testing.assert_array_equal(model.embed(["hello"])[0], one)


def test_properties(model: Embedder, file: Path) -> None:
    assert (model.dim, model.max_length, model.pooling) == (128, 128, "mean")
    assert dict(model.prompts) == {"query": "q: ", "document": "d: "}
    assert model.metadata["general.architecture"] == "modern-bert"
    assert Embedder(file, pooling="cls").pooling == "cls"
    assert "128" in repr(model)


def test_normalised_as_the_checkpoint_says(model: Embedder) -> None:
    assert np.linalg.norm(model.embed("hello")) == pytest.approx(1, abs=1e-6)
    raw = model.embed("hello", normalize=False)
    assert abs(np.linalg.norm(raw) - 1) > 0.01
    np.testing.assert_allclose(raw / np.linalg.norm(raw), model.embed("hello"), rtol=1e-5, atol=1e-7)


def test_order_and_batching_change_nothing(model: Embedder) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["sun", "moon", "river", "stone"], rng.integers(0, 25))) for _ in range(600)]
    together = model.embed(texts, normalize=False)
    order = rng.permutation(len(texts))
    shuffled = model.embed([texts[i] for i in order], normalize=False)
    for i in [0, 1, 7, 300, 599]:
        alone = model.embed(texts[i], normalize=False)
        assert np.linalg.norm(together[i] - alone) <= 1e-6 * np.linalg.norm(alone)
    assert np.linalg.norm(shuffled - together[order]) <= 1e-6 * np.linalg.norm(together)


def test_prompts(model: Embedder) -> None:
    expected = model.embed("q: hello")
    np.testing.assert_array_equal(model.embed("hello", prompt_name="query"), expected)
    np.testing.assert_array_equal(model.embed("hello", prompt="q: "), expected)
    assert not np.allclose(model.embed("hello"), expected)
    with pytest.raises(InputError, match=r"'nothing'.*'query', 'document'"):
        model.embed("hello", prompt_name="nothing")
    with pytest.raises(InputError, match="not both"):
        model.embed("hello", prompt_name="query", prompt="q: ")


def test_query_and_document_are_known_to_every_model(tmp_path: Path) -> None:
    spec = CheckpointSpec(
        "plain", 1, 32, 64, 1, prompts=(("passage", "p: "),), default_prompt_name="passage", max_positions=128
    )
    model = Embedder(convert(write_checkpoint(tmp_path / "plain", spec), tmp_path / "x.gguf", show_progress=False))
    empty = model.embed("hello", prompt="")
    assert not np.allclose(model.embed("hello"), empty)  # the default prompt
    for name in ("query", "document"):
        np.testing.assert_array_equal(model.embed("hello", prompt_name=name), empty)


@pytest.mark.parametrize("n_skip", [0, 1, 7])
def test_poolings(model: Embedder, file: Path, n_skip: int) -> None:
    ids = [model.tokenize("river " * n) for n in (6, 30, 100)]
    for name in (*get_args(Pooling), "mean+cls+max"):
        ours = model._engine.embed(ids, name, None, n_skip)
        for row, text in zip(ours, ids, strict=True):
            hidden = model._engine.embed([text], "none").astype(np.float64)
            kept, n = hidden[n_skip:], len(hidden) - n_skip
            weights = np.arange(n_skip + 1, len(hidden) + 1)
            expected = {
                "cls": kept[0],
                "last": kept[-1],
                "mean": kept.mean(axis=0),
                "max": kept.max(axis=0),
                "mean_sqrt_len": kept.sum(axis=0) / n**0.5,
                "weightedmean": weights @ kept / weights.sum(),
            }
            parts = [expected[part] for part in name.split("+")]
            np.testing.assert_allclose(row, np.concatenate(parts), rtol=1e-5, atol=1e-6)
    both = Embedder(file, pooling=["mean", "cls"])
    assert (both.dim, both.pooling) == (256, "mean+cls")
    with pytest.raises(InputError, match="'first'"):
        model._engine.embed(ids, "first")
    with pytest.raises(InputError, match="nothing is left to pool"):
        model._engine.embed(ids, "max", None, len(ids[0]))


def test_a_prompt_that_is_not_pooled(file: Path, tmp_path: Path) -> None:
    model = Embedder(rewrite(file, tmp_path / "x.gguf", added={keys.ST_INCLUDE_PROMPT: False}))
    text = "hello river"
    hidden = model._engine.embed([model.tokenize("q: " + text)], "none")
    n_prompt = len(model.tokenize("q: ")) - 1  # with [CLS], without [SEP]
    expected = hidden[n_prompt:].mean(axis=0)
    np.testing.assert_allclose(model.embed(text, prompt_name="query", normalize=False), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model.embed(text), Embedder(file).embed(text))  # no prompt


def test_precisions(model: Embedder) -> None:
    texts = [f"text number {i}" for i in range(9)]
    plain = model.embed(texts)
    for precision in PRECISIONS:
        ours = model.embed(texts, precision=precision)
        np.testing.assert_array_equal(ours, quantize_embeddings(plain, precision))
        blocks = model.embed_batches(texts, batch_size=4, precision=precision)
        if precision in ("int8", "uint8"):
            with pytest.raises(InputError, match="span all texts"):
                next(blocks)
        else:
            assert [block.dtype for block in blocks] == [ours.dtype] * 3
    assert model.embed("hello", precision="ubinary").shape == (16,)
    with pytest.raises(InputError, match="one embedding alone"):
        model.embed("hello", precision="int8")
    with pytest.raises(InputError, match="'int4'"):
        model.embed("hello", precision="int4")  # type: ignore[arg-type]


def test_similarity_is_the_models_own(model: Embedder, file: Path, tmp_path: Path) -> None:
    a, b = model.embed(["hello", "river"], normalize=False), model.embed(["hello", "river", "sun"])
    np.testing.assert_allclose(model.similarity(a, b)[:2].diagonal(), 1, rtol=1e-5)
    assert model.similarity(a[0], b).shape == (1, 3)
    other = Embedder(rewrite(file, tmp_path / "x.gguf", metadata={keys.ST_SIMILARITY: "dot"}))
    np.testing.assert_allclose(other.similarity(a, b), a @ b.T, rtol=1e-4)


def test_damaged_pipelines_are_named(file: Path, tmp_path: Path) -> None:
    for key, value in (
        (keys.ST_STEPS, "{"),
        (keys.ST_STEPS, '[{"type": "Dense", "in_features": 3}]'),
        (keys.ST_POOLING, "cls+first"),
        (keys.ST_SIMILARITY, "maxsim"),
        (keys.ST_INCLUDE_PROMPT, 1),
    ):
        with pytest.raises(ModelFileError, match=r"sentence_transformers|pooling"):
            Embedder(rewrite(file, tmp_path / "x.gguf", added={key: value}))


def test_dimensions(model: Embedder) -> None:
    full = model.embed("hello", normalize=False)
    np.testing.assert_array_equal(model.embed("hello", normalize=False, dimensions=32), full[:32])
    assert np.linalg.norm(model.embed("hello", dimensions=32)) == pytest.approx(1, abs=1e-6)
    for bad in (0, -1, 129):
        with pytest.raises(InputError, match="1 to 128"):
            model.embed("hello", dimensions=bad)


def test_truncation_keeps_the_closing_token_and_is_reported(model: Embedder) -> None:
    long = "river " * 400
    ids = model.tokenize(long)
    with pytest.warns(TruncationWarning, match="1 text"):
        vector = model.embed(long, normalize=False)
    np.testing.assert_array_equal(vector, model.embed_tokens([ids[:127] + ids[-1:]])[0])
    assert model.n_truncated == 1
    with warnings.catch_warnings():  # the second time it is only counted
        warnings.simplefilter("error")
        model.embed([long, "short", long])
    assert model.n_truncated == 3
    with pytest.raises(TooLongError, match=r"text 1 has .* the limit is 128"):
        model.embed(["short", long], truncate=False)
    short = model.embed("river stone sun moon", normalize=False, max_length=4)
    ids = model.tokenize("river stone sun moon")
    np.testing.assert_array_equal(short, model.embed_tokens([ids[:3] + ids[-1:]])[0])
    with pytest.raises(InputError, match="1 to 128"):
        model.embed("hello", max_length=129)


def test_batches_are_lazy_and_in_order(model: Embedder) -> None:
    taken = 0

    def texts() -> Iterator[str]:
        nonlocal taken
        for i in range(25):
            taken += 1
            yield f"text number {i}"

    blocks = model.embed_batches(texts(), batch_size=10)
    assert taken == 0
    first = next(blocks)
    assert (first.shape, taken) == ((10, 128), 10)
    rest = list(blocks)
    assert [len(block) for block in rest] == [10, 5]
    expected = model.embed([f"text number {i}" for i in range(25)])
    np.testing.assert_allclose(np.concatenate([first, *rest]), expected, atol=1e-6)
    with pytest.raises(InputError):
        next(model.embed_batches(["x"], batch_size=0))
    with pytest.raises(InputError, match="one string"):
        next(model.embed_batches("text"))


def test_one_call(file: Path) -> None:
    np.testing.assert_array_equal(embed("hello", model=file), Embedder(file).embed("hello"))


@pytest.mark.parametrize("bad", [b"bytes", None, 3, ["ok", b"bytes"], ["ok", None], [["nested"]], ["a\ud800b"]])
def test_what_is_no_text(model: Embedder, bad: object) -> None:
    with pytest.raises(InputError, match=r"expected str|lone surrogate"):
        model.embed(bad)  # type: ignore[arg-type]


def test_the_index_of_a_bad_text_is_named(model: Embedder) -> None:
    with pytest.raises(InputError, match="text 2 holds a lone surrogate at character 1"):
        model.embed(["fine", "fine", "a\udfffb"])


@pytest.mark.parametrize("ids", [[[]], [[1, 2], []], [[-1]], [[10**6]], [[1] * 100_000]])
def test_token_ids_that_cannot_be(model: Embedder, ids: list[list[int]]) -> None:
    with pytest.raises(InputError, match="text"):
        model.embed_tokens(ids)


def test_bad_arguments(file: Path) -> None:
    with pytest.raises(InputError, match="pooling"):
        Embedder(file, pooling="median")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="dtype"):
        Embedder(file, dtype="f16")
    with pytest.raises(InputError, match="n_threads"):
        Embedder(file, n_threads=0)
    with pytest.raises(ModelNotFoundError):
        Embedder("nowhere.gguf")
    with pytest.raises(ModelNotFoundError):
        Embedder(file, tokenizer="nowhere.json")


def test_a_folder_is_converted_once(tmp_path: Path) -> None:
    folder = checkpoint("tiny")
    first = Embedder(folder, cache_dir=tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.gguf")}
    assert len(files) == 1
    second = Embedder(folder, cache_dir=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.gguf")} == files
    np.testing.assert_array_equal(first.embed("hello"), second.embed("hello"))


def test_threads_share_a_model(model: Embedder) -> None:
    texts = [text for text in NASTY_TEXTS if len(model.tokenize(text)) <= model.max_length]
    expected = model.embed(texts)
    results: list[np.ndarray] = []
    workers = [threading.Thread(target=lambda: results.append(model.embed(texts))) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 6
    for result in results:
        np.testing.assert_allclose(result, expected, atol=1e-6)


def test_other_threads_run_while_one_encodes(model: Embedder) -> None:
    done = threading.Event()

    def work() -> None:
        model.embed(["river " * 20] * 2000)
        done.set()

    worker = threading.Thread(target=work)
    longest, last = 0.0, time.perf_counter()
    worker.start()
    while not done.is_set():
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
        time.sleep(0.001)
    worker.join()
    assert longest < 0.5  # the GIL is free: this thread is never held up for the whole run


def test_ctrl_c_stops_a_long_run(file: Path) -> None:
    program = f"""
        import signal, sys
        from modernbert_llama import Embedder
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell job starts with it ignored
        model = Embedder({str(file)!r}, n_threads=1)
        texts = ["river stone " * 60] * 200_000
        print("ready", flush=True)
        try:
            model.embed(texts, normalize=False)
        except KeyboardInterrupt:
            print("stopped", model.embed("still works").shape, flush=True)
            sys.exit(7)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(8)  # past the tokenizer, into the engine
    start = time.perf_counter()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 7
    assert output == "stopped (128,)\n"
    assert time.perf_counter() - start < 5  # a second on an idle machine


def test_the_log_goes_to_logging(
    file: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG, logger="modernbert_llama"):
        Embedder(file).embed("hello")
    lines = [record.getMessage() for record in caplog.records if record.name == "modernbert_llama"]
    assert any("modern-bert" in line for line in lines)
    assert all("\n" not in line for line in lines)
    assert capfd.readouterr() == ("", "")


def test_activations(model: Embedder) -> None:
    ids = model.tokenize("hello river")
    found = model.activations(ids)
    for name in (
        "inp_norm",
        "Qcur-2",
        "Kcur-0",
        "Vcur-1",
        "kqv_out-0",
        "ffn_inp-1",
        "ffn_out-2",
        "l_out-2",
        "final_norm_out",
    ):
        assert any(key == name or key.startswith(name) for key in found), name
    assert found["l_out-0"].shape == (len(ids), 128)
    assert found["Qcur-1"].shape == (len(ids), 128)
    assert not np.allclose(found["l_out-0"], found["l_out-1"])


def test_profile_times_every_product(file: Path) -> None:
    engine, ids = Engine(str(file), n_threads=2), [list(range(5, 35)), list(range(5, 15))]
    nodes = engine.profile(ids, 3)
    assert sum(flops for _, _, flops, _ in nodes) == 40 * 2 * SPEC.n_layer * (
        4 * SPEC.hidden**2 + 3 * SPEC.hidden * SPEC.intermediate
    )
    assert all(len(seconds) == 3 and min(seconds) > 0 for _, _, _, seconds in nodes)
    products = [name for name, op, _, _ in nodes if op == "MUL_MAT"]
    assert products == [
        f"blk.{layer}.{part}.weight" for layer in range(3) for part in ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
    ]
    assert sum("FLASH_ATTN" in op for _, op, _, _ in nodes) == 3
    wrong: list[tuple[list[list[int]], int]] = [([], 1), (ids, 0), ([[]], 1), ([[10**6]], 1)]
    for texts, n_passes in wrong:
        with pytest.raises(InputError):
            engine.profile(texts, n_passes)


def test_the_llama_tokenizer_agrees(file: Path) -> None:
    ours, theirs = Embedder(file), Embedder(file, tokenizer="llama")
    # the patched one composes (NFC) and lets [MASK] take the spaces before it
    for text in ("hello world", "The cat sleeps.", "a  b   c", "1234 + 5678", "", *NASTY_TEXTS):
        assert ours.tokenize(text) == theirs.tokenize(text), text


def test_a_tokenizer_file_in_place_of_the_embedded_one(file: Path) -> None:
    other = Embedder(file, tokenizer=scratch() / "api" / "tokenizer.json")
    assert other.tokenize("hello") == Embedder(file).tokenize("hello")


def test_both_flavours_are_the_same_model() -> None:
    ids = embedder("biases").tokenize("the river and the stone " * 30)
    one = Embedder(gguf("biases", "f32", "modern-bert")).embed_tokens([ids])
    two = Embedder(gguf("biases", "f32", "modernbert")).embed_tokens([ids])
    assert np.linalg.norm(one - two) <= 1e-6 * np.linalg.norm(one)

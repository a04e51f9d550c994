"""Damaged and foreign GGUF files: an exception that names the fault, in this process, and never an abort."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_edit import rewrite
from models import scratch
from modernbert_llama import Embedder, convert
from modernbert_llama.errors import ModelFileError, ModelNotFoundError, ModernBertLlamaError
from modernbert_llama.synthetic import CheckpointSpec, write_checkpoint

SPEC = CheckpointSpec("bad", 2, 64, 96, 2, seed=50)


@pytest.fixture(scope="module")
def good() -> Path:
    return convert(write_checkpoint(scratch() / "bad", SPEC), scratch() / "bad.gguf", show_progress=False)


def try_it(file: Path) -> None:
    Embedder(file, n_threads=1).embed(["hello river", ""], normalize=False)


@pytest.mark.parametrize("keep", [0, 1, 3, 4, 8, 23, 24, 100, 1000, 20_000, -1, -1000, -100_000])
def test_truncated(good: Path, tmp_path: Path, keep: int) -> None:
    data = good.read_bytes()
    file = tmp_path / "cut.gguf"
    file.write_bytes(data[:keep])
    with pytest.raises(ModelFileError, match=r"cut.gguf"):
        try_it(file)


@pytest.mark.parametrize("seed", range(200))
def test_corrupted(good: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(good.read_bytes())
    # half of the files are hit in the metadata, where most of the structure is
    size = len(data) if seed % 2 else 30_000
    for _ in range(rng.choice([1, 2, 8, 64])):
        position = rng.randrange(size)
        if rng.random() < 0.5:
            data[position] ^= 1 << rng.randrange(8)
        else:
            data[position] = rng.randrange(256)
    file = tmp_path / "bits.gguf"
    file.write_bytes(data)
    with contextlib.suppress(ModernBertLlamaError):  # nothing else, and no abort
        try_it(file)  # a flipped bit in a weight is a model like any other


def test_another_architecture(tmp_path: Path) -> None:
    file = tmp_path / "llama.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((8, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelFileError, match="'llama', expected 'modern-bert' or 'modernbert'"):
        try_it(file)


def test_not_gguf(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_text("hello")
    with pytest.raises(ModelFileError, match="not a GGUF file"):
        try_it(file)


def test_unreadable_paths(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        try_it(tmp_path / "missing.gguf")
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(ModelNotFoundError):
        try_it(tmp_path / "folder.gguf")


def test_missing_tensor(good: Path, tmp_path: Path) -> None:
    file = rewrite(good, tmp_path / "x.gguf", tensors={"blk.1.ffn_down.weight": lambda _: None})
    with pytest.raises(ModelFileError, match=r"tensor 'blk.1.ffn_down.weight' is missing"):
        try_it(file)


def test_misshapen_tensor(good: Path, tmp_path: Path) -> None:
    file = rewrite(good, tmp_path / "x.gguf", tensors={"blk.1.ffn_down.weight": lambda x: x[:-1]})
    with pytest.raises(
        ModelFileError, match=r"tensor 'blk.1.ffn_down.weight' has the shape \[96, 63\], expected \[96, 64\]"
    ):
        try_it(file)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(good: Path, tmp_path: Path, value: float) -> None:
    def spoil(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        x.flat[5] = value
        return x

    file = rewrite(good, tmp_path / "x.gguf", tensors={"blk.0.attn_qkv.weight": spoil})
    with pytest.raises(ModelFileError, match=r"NaN or infinity: tensor 'blk.0.attn_qkv.weight'"):
        try_it(file)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.usefixtures("good")
def test_activations_that_are_no_numbers(tmp_path: Path, value: float, per_channel: bool) -> None:
    # quantised activations have no NaN of their own
    def spoil(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        x.flat[5] = value
        return x

    quantised = convert(scratch() / "bad", scratch() / "bad-q8_0.gguf", outtype="q8_0", show_progress=False)
    file = rewrite(quantised, tmp_path / "x.gguf", tensors={"blk.1.ffn_norm.weight": spoil})
    with pytest.raises(ModelFileError, match=r"NaN or infinity: tensor 'blk.1.ffn_norm.weight'"):
        Embedder(file, n_threads=1, per_channel=per_channel).embed(["hello river", ""], normalize=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("modern-bert.block_count", 0),
        ("modern-bert.block_count", 100_000),
        ("modern-bert.attention.head_count", 0),
        ("modern-bert.attention.head_count", 3),
        ("modern-bert.embedding_length", 0),
        ("modern-bert.feed_forward_length", 2**31),
        ("modern-bert.attention.layer_norm_epsilon", float("nan")),
        ("modern-bert.attention.sliding_window", 2**32 - 1),
        ("modern-bert.hidden_activation", "quick_gelu"),
        ("modern-bert.pooling_type", 9),
        ("tokenizer.ggml.bos_token_id", 10**6),
        ("tokenizer.ggml.model", "rwkv"),
    ],
)
def test_keys_out_of_range(good: Path, tmp_path: Path, key: str, value: object) -> None:
    file = rewrite(good, tmp_path / "x.gguf", metadata={key: value})
    with pytest.raises(ModelFileError):
        try_it(file)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("type", "longrope"),
        ("type_swa", "yarn"),  # without its factor
        ("type_swa", "su"),
        ("factor", 0.0),
        ("factor_swa", 2),
        ("attn_factor", -1.0),
        ("yarn_beta_fast", float("inf")),
        ("original_context_length_swa", 0),
    ],
)
def test_rope_scaling_that_cannot_be(good: Path, tmp_path: Path, key: str, value: object) -> None:
    file = rewrite(good, tmp_path / "x.gguf", added={f"modern-bert.rope.scaling.{key}": value})
    with pytest.raises(ModelFileError, match=f"rope.scaling.{key if value != 'yarn' else 'factor_swa'}"):
        try_it(file)

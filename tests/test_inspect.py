"""The description of a GGUF file, and that no damage to one crashes or hangs the reader."""

from __future__ import annotations

import struct
import time
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from modernbert_llama import keys
from modernbert_llama.checkpoint import read_checkpoint
from modernbert_llama.convert import convert, write_gguf
from modernbert_llama.describe import describe, render
from modernbert_llama.embedder import Embedder
from modernbert_llama.errors import ModelFileError, ModelNotFoundError
from modernbert_llama.gguf_header import read_header
from modernbert_llama.steps import Dense
from tiny_checkpoint import write_json, write_modules, write_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_tiny(tmp_path_factory.mktemp("inspect") / "tiny", matryoshka_dims=[16, 32])
    write_modules(path)
    write_json(path / "config_sentence_transformers.json", {"prompts": {"query": "q\x1b[2J: "}})
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return convert(folder, folder.parent / "model.gguf", outtype="q8_0")


@pytest.mark.parametrize("arch", keys.ARCHS)
def test_description(folder: Path, tmp_path: Path, arch: keys.Arch) -> None:
    found = describe(convert(folder, tmp_path / "model.gguf", outtype="q8_0", arch=arch))
    assert found.arch == arch
    facts = {(section, name): value for section, name, value in found.facts}
    for section, name, value in (
        ("file", "name", "tiny"),
        ("file", "file type", "q8_0"),
        ("encoder", "layers", "4"),
        ("encoder", "hidden size", "64"),
        ("encoder", "local window", "128"),
        ("encoder", "global layers", "every 3 from 0"),
        ("encoder", "RoPE theta, global", "80000"),
        ("encoder", "RoPE theta, local", "20000"),
        ("pipeline", "kind", "text embedding: one vector a text"),
        ("pipeline", "modules", "cls pooling -> Normalize"),
        ("pipeline", "pooling", "cls"),
        ("pipeline", "normalize", "yes"),
        ("pipeline", "maximum length", "256"),
        ("pipeline", "Matryoshka dims", "32, 16"),
        ("tokenizer", "tokens", "300"),
        ("tokenizer", "before a text", "[CLS] (1)"),
        ("tokenizer", "after a text", "[SEP] (2)"),
    ):
        assert facts[section, name] == value
    table = render(found)
    assert "\x1b" not in table, "a file must not steer the terminal"
    assert "query" in table
    assert "blk.0.attn_qkv.weight" not in table
    lines = [line.split() for line in render(found, tensors=True).splitlines()]
    assert ["blk.0.attn_qkv.weight", "q8_0", "192", "x", "64"] in lines


def test_rope_scaling_and_modules_are_shown(tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    write_tiny(tmp_path / "in", rope_parameters=None, layer_types=None, rope_scaling=scaling)
    write_modules(tmp_path / "in", pooling="max", normalize=False)
    step = Dense("GELU", np.ones((8, 64), np.float32), np.ones(8, np.float32))
    checkpoint = read_checkpoint(tmp_path / "in")
    checkpoint = replace(checkpoint, pipeline=replace(checkpoint.pipeline, steps=(step,), include_prompt=False))
    write_gguf(checkpoint, tmp_path / "out.gguf", outtype="f32")
    facts = {(section, name): value for section, name, value in describe(tmp_path / "out.gguf").facts}
    yarn = "yarn: factor 4, original_context_length 128, attn_factor 1, yarn_beta_fast 32, yarn_beta_slow 1"
    assert facts["encoder", "RoPE scaling, global"] == facts["encoder", "RoPE scaling, local"] == yarn
    assert facts["pipeline", "modules"] == "max pooling -> Dense(64 to 8, GELU)"
    assert facts["pipeline", "prompt pooled"] == "no"
    assert Embedder(tmp_path / "out.gguf").embed("hello").shape == (8,)


def test_irregular_layers_and_header_equal_the_gguf_packages(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    path = convert(write_tiny(tmp_path / "in", layer_types=kinds), tmp_path / "out.gguf", outtype="f16")
    assert ("encoder", "global layers", "1, 2") in describe(path).facts
    header, reader = read_header(path), gguf.GGUFReader(path)
    expected = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert {key: list(v) if isinstance(v, tuple) else v for key, v in header.metadata.items()} == expected
    assert [(info.name, list(info.shape), info.nbytes) for info in header.tensors] == [
        (tensor.name, tensor.shape.tolist()[::-1], tensor.n_bytes) for tensor in reader.tensors
    ]


def test_a_foreign_file_is_described_as_foreign(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "llama.gguf", "llama")
    writer.add_block_count(7)
    writer.add_tensor("x", np.zeros((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = describe(tmp_path / "llama.gguf")
    assert found.arch == "llama"
    assert "llama (not a ModernBERT)" in render(found)


def test_unreadable_and_foreign_bytes(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"nothing\.gguf"):
        describe(tmp_path / "nothing.gguf")
    with pytest.raises(ModelNotFoundError):
        describe(tmp_path)
    for data in (b"", b"GG", b"PK\x03\x04" + bytes(100), b"GGUF", b"GGUF" + struct.pack("<I", 1) + bytes(16)):
        (tmp_path / "bad.gguf").write_bytes(data)
        with pytest.raises(ModelFileError, match=r"bad\.gguf"):
            describe(tmp_path / "bad.gguf")


def test_every_truncation_is_a_named_error(model: Path, tmp_path: Path) -> None:
    data = model.read_bytes()
    cut = tmp_path / "cut.gguf"
    for keep in [*range(0, 400, 7), *range(400, len(data), len(data) // 60), len(data) - 64]:
        cut.write_bytes(data[:keep])
        with pytest.raises(ModelFileError):
            describe(cut)


@pytest.mark.parametrize("count", [2**63, 2**40, 2**32 - 1])
def test_huge_counts_are_refused_at_once(model: Path, tmp_path: Path, count: int) -> None:
    data = bytearray(model.read_bytes())
    places = [8, 16, data.index(b"general.architecture") - 8, data.index(b"tokenizer.ggml.merges") + 21 + 8]
    for place in places:
        damaged = data.copy()
        damaged[place : place + 8] = struct.pack("<Q", count)
        (tmp_path / "huge.gguf").write_bytes(damaged)
        start = time.perf_counter()
        with pytest.raises(ModelFileError):
            describe(tmp_path / "huge.gguf")
        assert time.perf_counter() - start < 2


def test_random_damage_never_crashes_or_hangs(model: Path, tmp_path: Path) -> None:
    data = model.read_bytes()
    random = np.random.default_rng(7)
    header = data.index(b"output_norm.weight") + 60
    refused = 0
    for _ in range(200):
        damaged = bytearray(data)
        for position in random.integers(0, header, random.integers(1, 8)):
            damaged[position] = int(random.integers(0, 256))
        (tmp_path / "damaged.gguf").write_bytes(damaged)
        try:
            render(describe(tmp_path / "damaged.gguf"), tensors=True)
        except ModelFileError:
            refused += 1
    assert refused > 20

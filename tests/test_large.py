"""Ettin-1b's shape (28 layers, 1792 wide): whole conversions of a checkpoint of 2 and of 4 GB, and their memory."""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from models import full_tokenizer
from modernbert_llama.convert import convert
from modernbert_llama.embedder import Embedder
from modernbert_llama.keys import ARCHS, Arch
from modernbert_llama.synthetic import CheckpointSpec, token_ids, write_checkpoint
from numpy.typing import NDArray
from peak_memory import peak_memory
from specs import cosine_distance, relative_error

pytestmark = pytest.mark.slow

ETTIN_1B = CheckpointSpec(
    "ettin-1b", 28, 1792, 3840, 28, local_theta=160000.0, max_positions=7999, config_format=4, vocab="full", shards=3,
    pooling="mean", seed=31,
)  # fmt: skip
Q8_0_BAR = 1e-3  # 1 - cosine
BAR = 256 * 2**20  # bytes; the is 2 GB
DISK = 12 * 10**9  # bytes: the larger checkpoint, its largest conversion, and some
CLI = [sys.executable, "-m", "modernbert_llama.cli", "convert"]
API = """
import sys
from modernbert_llama import convert
convert(sys.argv[1], sys.argv[2], outtype=sys.argv[3], arch=sys.argv[4])
"""
CACHE = """
import sys
from modernbert_llama.cache import converted
converted(sys.argv[1], sys.argv[3], cache_dir=sys.argv[2])
"""


@pytest.fixture(scope="module", params=["BF16", "F32"])
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("large")
    if shutil.disk_usage(folder).free < DISK:
        pytest.skip(f"needs {DISK / 1e9:.0f} GB in {folder}")
    yield write_checkpoint(folder / "ettin-1b", replace(ETTIN_1B, stored=request.param), full_tokenizer())
    shutil.rmtree(folder)


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)  # gigabytes, which pytest would keep for a while


def check(path: Path, outtype: str, folder: Path) -> None:
    """All tensors are there, and the ends of the first and last matrices are those of the checkpoint."""
    reader = gguf.GGUFReader(path)
    bits = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5}[outtype]
    n_values = sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert n_values > 1e9
    assert path.stat().st_size == pytest.approx(n_values * bits / 8, rel=0.01)
    assert len(reader.fields["tokenizer.ggml.tokens"].data) == ETTIN_1B.vocab_size
    found = {tensor.name: tensor for tensor in reader.tensors}
    for name, source in (("token_embd", "embeddings.tok_embeddings"), ("blk.27.ffn_down", "layers.27.mlp.Wo")):
        tensor = found[f"{name}.weight"]
        for row in (slice(0, 2), slice(-2, None)):
            bar = {"f32": 1e-7, "q8_0": 1e-2}.get(outtype, 3e-3)
            ours = gguf.quants.dequantize(tensor.data[row], tensor.tensor_type)
            assert relative_error(ours, stored_rows(folder, source, row)) < bar


def stored_rows(folder: Path, name: str, rows: slice) -> NDArray[np.float32]:
    """Rows of a matrix of the checkpoint, read without the package."""
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    file = folder / index["weight_map"][f"{name}.weight"]
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        entry = json.loads(stream.read(length))[f"{name}.weight"]
    dtype = {"F32": "<f4", "BF16": "<u2"}[entry["dtype"]]
    where = 8 + length + entry["data_offsets"][0]
    values = np.array(np.memmap(file, dtype, "r", where, tuple(entry["shape"]))[rows])
    return values if dtype == "<f4" else (values.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("outtype", ["f32", "bf16", "f16", "q8_0"])
@pytest.mark.parametrize("arch", ARCHS)
def test_memory_of_a_conversion(large: Path, out: Path, outtype: str, arch: Arch) -> None:
    file = out / "model.gguf"
    if arch == "modern-bert":
        peak = peak_memory([*CLI, large, "-o", file, "--outtype", outtype])
    else:
        peak = peak_memory([sys.executable, "-c", API, large, file, outtype, arch])
    print(f"{outtype} {arch}: peak {peak / 1e6:.0f} MB")
    assert peak < BAR
    check(file, outtype, large)


def test_memory_of_a_conversion_into_the_cache(large: Path, out: Path) -> None:
    """From the hub's cache: the weights are links to blobs named by their sha256, as huggingface_hub keeps them."""
    snapshot = out / "hub" / "models--acme--ettin-1b" / "snapshots" / ("a" * 40)
    shutil.copytree(large, snapshot, ignore=shutil.ignore_patterns("*.safetensors"))
    blobs = snapshot.parents[1] / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(large.glob("*.safetensors"))):
        blob = blobs / f"{number:064x}"
        blob.hardlink_to(file)
        (snapshot / file.name).symlink_to(blob)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("a" * 40, encoding="utf-8")
    command = [sys.executable, "-c", CACHE, "acme/ettin-1b", str(out), "q8_0"]
    assert peak_memory(command, {"HF_HUB_OFFLINE": "1"}) < BAR
    (file,) = out.glob("*.gguf")
    check(file, "q8_0", large)
    stamp = file.stat().st_mtime_ns
    assert peak_memory(command, {"HF_HUB_OFFLINE": "1"}) < BAR
    assert file.stat().st_mtime_ns == stamp, "found, not converted again"


def test_embeds(large: Path, out: Path) -> None:
    texts = [token_ids(ETTIN_1B, n) for n in (1, 130, 700)]
    vectors = []
    for outtype in ("q8_0", "f32"):
        file = convert(large, out / "model.gguf", outtype=outtype, show_progress=False)
        vectors.append(Embedder(file).embed_tokens(texts, normalize=False))
    for ours, exact in zip(*vectors, strict=True):
        assert cosine_distance(ours, exact) < Q8_0_BAR

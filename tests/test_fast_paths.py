"""The fast paths against the plain ones, which environment variables bring back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models import scratch
from modernbert_llama import Embedder, convert
from modernbert_llama.convert import OutType
from modernbert_llama.errors import InputError
from modernbert_llama.synthetic import CheckpointSpec, token_ids, write_checkpoint
from numpy.typing import NDArray
from upstream_builds import SETTINGS, SWITCHES, cpu_flags

SPECS = {
    spec.name: spec
    for spec in (
        CheckpointSpec("fast-window16", 4, 128, 192, 4, window=16, pooling="mean", seed=70),
        CheckpointSpec("fast-window128", 4, 256, 160, 4, window=128, pooling="mean", seed=71),
        CheckpointSpec("fast-all-global", 3, 128, 96, 1, global_every=1, pooling="cls", seed=72),
        CheckpointSpec("fast-heads-of-80", 3, 320, 96, 4, window=34, pooling="cls", seed=73),
        CheckpointSpec("fast-odd-rows", 2, 72, 40, 3, window=8, pooling="mean", seed=74),  # rows not packed, head of 24
    )
}

# reads texts as rows of token ids, writes their vectors
EMBED = """
import sys
import numpy as np
from modernbert_llama import Embedder
data = np.load(sys.argv[2])
ids = np.split(data["ids"], np.cumsum(data["lengths"])[:-1])
np.save(sys.argv[3], Embedder(sys.argv[1]).embed_tokens([row.tolist() for row in ids], normalize=False))
"""


def layouts() -> dict[str, list[int]]:
    """Lengths of the texts of a call."""
    rng = np.random.default_rng(0)
    return {
        "one token": [1],
        "around the window": [1, 7, 8, 9, 15, 16, 17, 18, 63, 64, 65, 66, 127, 128, 129, 130],
        "300 sequences": rng.integers(1, 6, 300).tolist(),
        "random": rng.integers(1, 250, 24).tolist(),
        "long": [900, 3, 700],
    }


def run(file: Path, ids: list[list[int]], switches: dict[str, str]) -> NDArray[np.float32]:
    """Vectors of a process of its own: a switch is read once."""
    source, target = scratch() / "fast-ids.npz", scratch() / "fast-vectors.npy"
    np.savez(source, ids=np.concatenate(ids), lengths=[len(row) for row in ids])
    environment = {key: value for key, value in os.environ.items() if key not in SWITCHES}
    environment.update(switches)
    command = [sys.executable, "-c", EMBED, str(file), str(source), str(target)]
    subprocess.run(command, check=True, env=environment, timeout=600)
    vectors: NDArray[np.float32] = np.load(target)
    return vectors


def changes(spec: CheckpointSpec) -> set[tuple[str, str, str]]:
    """Where the plain path cannot give the same bits: its sums have another order, or its operands more of them."""
    flags = cpu_flags()
    amx = {"avx512_bf16", "amx_bf16", "amx_int8"} <= flags
    amx_attention = amx and spec.hidden // spec.n_head % 32 == 0
    dot = "avx512_bf16" in flags and "GenuineIntel" not in flags  # vdpbf16ps, where it is the faster way

    result = {("f32", "LLAMA_ATTN_DENSE", "1")}
    if "avx2" in flags:
        result |= {("f32", "GGML_CPU_NO_PACK", "1"), ("f16", "GGML_CPU_NO_PACK", "1")}
    if "avx2" in flags and not (dot or amx):
        result.add(("bf16", "GGML_CPU_NO_PACK", "1"))
    if dot or amx_attention:
        result |= {("bf16", "GGML_CPU_ATTN_F32", "1"), ("q8_0", "GGML_CPU_ATTN_F32", "1")}
    if "avx512_bf16" in flags and not amx:
        other = "0" if dot else "1"
        result |= {("bf16", "GGML_CPU_BF16_DOT", other), ("q8_0", "GGML_CPU_BF16_DOT", other)}
    if amx and spec.hidden % 32 == 0:
        result |= {(outtype, "GGML_CPU_NO_AMX", "1") for outtype in OUTTYPES}
    return result


OUTTYPES: tuple[OutType, ...] = ("f32", "f16", "bf16", "q8_0")
TOLERANCE = {"f32": 1e-6, "f16": 1e-3, "bf16": 4e-3, "q8_0": 1.5e-2}
CASES = [
    (name, outtype)
    for name, spec in SPECS.items()
    for outtype in OUTTYPES
    if outtype != "q8_0" or spec.hidden % 32 == 0  # llama.cpp has no Q8_0 of other widths
]


@pytest.mark.parametrize(("name", "outtype"), CASES)
def test_fast_equals_plain(name: str, outtype: OutType) -> None:
    spec = SPECS[name]
    file = scratch() / f"{name}-{outtype}.gguf"
    convert(write_checkpoint(scratch() / f"{name}-{outtype}", spec), file, outtype=outtype, show_progress=False)
    lengths = [length for layout in layouts().values() for length in layout]
    ids = [token_ids(spec, length, seed) for seed, length in enumerate(lengths)]
    fast = run(file, ids, {})
    for switch, value in SETTINGS:
        plain = run(file, ids, {switch: value})
        error = np.linalg.norm(fast - plain, axis=1) / np.linalg.norm(plain, axis=1)
        # a sum in another order may round an activation to the next value of 8 bits
        assert error.max() < TOLERANCE[outtype], (switch, value)
        if (outtype, switch, value) in changes(spec):
            assert error.max() > 0, f"{switch}={value} changes nothing"


@pytest.fixture(scope="module")
def q8_0() -> Path:
    folder = write_checkpoint(scratch() / "per-channel", SPECS["fast-window128"])
    return convert(folder, scratch() / "per-channel.gguf", outtype="q8_0", show_progress=False)


def test_per_channel(q8_0: Path) -> None:
    spec = SPECS["fast-window128"]
    folder = scratch() / "per-channel"
    exact = Embedder(convert(folder, scratch() / "per-channel-f32.gguf", show_progress=False))
    ids = [token_ids(spec, length, length) for length in (1, 2, 11, 12, 13, 40, 200)]
    reference = exact.embed_tokens(ids, normalize=True)
    blocks = Embedder(q8_0).embed_tokens(ids, normalize=True)
    channels = Embedder(q8_0, per_channel=True).embed_tokens(ids, normalize=True)
    distances = [np.sum((vectors - reference) ** 2, axis=1).max() / 2 for vectors in (blocks, channels)]
    assert distances[1] < 2e-3
    if "avx2" in cpu_flags():
        assert distances[0] < distances[1], "per_channel changes nothing"
    # a folder is converted to q8_0 for it
    again = Embedder(folder, per_channel=True, cache_dir=scratch()).embed_tokens(ids, normalize=True)
    np.testing.assert_array_equal(again, channels)


def test_per_channel_is_for_q8_0(q8_0: Path) -> None:
    with pytest.raises(InputError, match="q8_0"):
        Embedder(convert(scratch() / "per-channel", scratch() / "wrong.gguf", show_progress=False), per_channel=True)
    with pytest.raises(InputError, match="q8_0"):
        Embedder(scratch() / "per-channel", dtype="f32", per_channel=True)
    with pytest.raises(InputError, match="n_gpu_layers"):
        Embedder(q8_0, n_gpu_layers=1, per_channel=True)

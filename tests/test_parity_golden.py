"""Embeddings against transformers in float64, from the committed golden vectors: no torch needed.

``e`` is the relative L2 error of the embedding before normalisation. Every bar is relative to what transformers itself
loses on the same text: see specs.golden_arrays.
"""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from models import embedder, full_tokenizer, scratch
from modernbert_llama.convert import OutType, convert
from modernbert_llama.embedder import Embedder, Pooling
from modernbert_llama.keys import Arch
from modernbert_llama.synthetic import CheckpointSpec, token_ids, write_checkpoint
from numpy.typing import NDArray
from specs import GOLDEN, POOLINGS, SPECS, cosine_distance, golden_arrays, is_slow, lengths, relative_error

F32_FACTOR = 10  # times transformers' own float32 error
F16_BAR = 1e-5
Q8_0_BAR = 1e-3
BATCH_BAR = 1e-6


def own_pooling(name: str) -> Pooling:
    """The pooling that the folder of a spec asks for."""
    spec = SPECS[name]
    pooling = spec.pooling or spec.classifier_pooling
    return "last" if pooling == "lasttoken" else pooling


def variants(name: str) -> list[tuple[OutType, Arch, Pooling]]:
    """Every type of file in the default flavour and the model's pooling; f32 in the other flavour and poolings too."""
    own = own_pooling(name)
    chosen: list[tuple[OutType, Arch, Pooling]] = [("f32", "modern-bert", own), ("f32", "modernbert", own)]
    if name in ("tiny", "every2"):
        others: tuple[Pooling, ...] = ("cls", "mean", "last")
        chosen += [("f32", "modern-bert", pooling) for pooling in others if pooling != own]
    if name == "biases":
        chosen += [("q8_0", "modernbert", own)]
    return [*chosen, ("f16", "modern-bert", own), ("bf16", "modern-bert", own), ("q8_0", "modern-bert", own)]


def cases() -> list[Any]:
    """Ordered so that a file is converted and loaded once."""
    return [
        pytest.param(
            name,
            *variant,
            length,
            id=f"{name}-{'-'.join(variant)}-{length}",
            marks=[pytest.mark.slow] if is_slow(name, length) else [],
        )
        for name in SPECS
        for variant in variants(name)
        for length in lengths(name)
        # at full length the large shapes take minutes: one file each
        if length <= 1000 or name == "every2" or variant[:2] == ("f32", "modern-bert")
    ]


@pytest.mark.parametrize(("name", "outtype", "arch", "pooling", "length"), cases())
def test_equals_transformers(name: str, outtype: OutType, arch: Arch, pooling: Pooling, length: int) -> None:
    golden = golden_arrays(name)
    row = POOLINGS.index(pooling)
    reference = golden[str(length)][row]
    default = None if pooling == own_pooling(name) else pooling
    model = embedder(name, outtype, arch, default)
    assert model.pooling == pooling
    ours = model.embed_tokens([token_ids(SPECS[name], length)], normalize=False)
    assert ours.shape == (1, SPECS[name].hidden)
    assert ours.dtype == np.float32
    if outtype == "f32":
        assert relative_error(ours[0], reference) <= F32_FACTOR * golden[f"{length}-float32"][row]
        return
    bars = {"f16": F16_BAR, "bf16": golden[f"{length}-bfloat16"][row], "q8_0": Q8_0_BAR}
    assert cosine_distance(ours[0], reference) <= bars[outtype]


@pytest.mark.parametrize("name", ["tiny", "every2", "biases", "window32"])
def test_batched_equals_one_at_a_time(name: str) -> None:
    model = embedder(name)
    sizes = [130, 1, 65, 2, 66, 64, 300, 3, 1, 129, 17, 513, 33, 34, 128]
    texts = [token_ids(SPECS[name], n, seed) for seed, n in enumerate(sizes)]
    alone = np.concatenate([model.embed_tokens([text], normalize=False) for text in texts])
    order = list(range(len(texts)))
    for seed in range(2):
        together = model.embed_tokens([texts[i] for i in order], normalize=False)
        for place, i in enumerate(order):
            assert relative_error(together[place], alone[i]) <= BATCH_BAR
        random.Random(seed).shuffle(order)


def test_more_texts_than_a_batch_holds() -> None:
    model = embedder("tiny")
    texts = [token_ids(SPECS["tiny"], 1 + seed % 9, seed) for seed in range(700)]
    together = model.embed_tokens(texts, normalize=False)
    for i in range(0, 700, 37):
        assert relative_error(together[i], model.embed_tokens([texts[i]], normalize=False)[0]) <= BATCH_BAR


def token_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((GOLDEN / "token_ids.json").read_text(encoding="utf-8"))
    return rows


@pytest.mark.parametrize("row", token_rows(), ids=lambda row: ascii(row["text"][:16]))
def test_token_ids_equal_hugging_faces(row: dict[str, Any]) -> None:
    assert embedder("tiny").tokenize(row["text"]) == row["small"]


def test_token_ids_equal_hugging_faces_with_the_full_vocabulary() -> None:
    spec = CheckpointSpec("full", 1, 64, 64, 1, vocab="full")
    folder = write_checkpoint(scratch() / "full", spec, full_tokenizer())
    model = Embedder(convert(folder, scratch() / "full.gguf", outtype="q8_0", show_progress=False))
    for row in token_rows():
        assert model.tokenize(row["text"]) == row["full"]
    vectors: NDArray[np.float32] = model.embed([row["text"] for row in token_rows()])
    assert np.isfinite(vectors).all()

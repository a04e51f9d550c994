"""The native head of the tokens against numpy in float64, over the hidden rows that the engine itself gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize, quantize
from gguf_edit import copy_of, finish
from models import scratch
from modernbert_llama import convert
from modernbert_llama.convert import OutType
from modernbert_llama.errors import InputError, ModelFileError
from modernbert_llama.native import Engine
from modernbert_llama.synthetic import CheckpointSpec, token_ids, write_checkpoint
from numpy.typing import NDArray
from upstream_builds import cpu_flags

Array = NDArray[np.float64]
SPEC = CheckpointSpec("head", 2, 64, 96, 2, seed=60)
N_LABELS = 5
TEXTS = [token_ids(SPEC, length, seed) for seed, length in enumerate((9, 1, 700, 31, 2, 600))]
BITS = {"f32": 1e-5, "bf16": 3e-2, "q8_0": 3e-2}


def erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf)(x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
    "gelu_pytorch_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


@cache
def encoder(outtype: OutType) -> Path:
    source = write_checkpoint(scratch() / "head", SPEC)
    return convert(source, scratch() / f"head-{outtype}.gguf", outtype=outtype, show_progress=False)


class Head:
    """A head with random weights, in a file beside the encoder's, and its value in float64."""

    def __init__(
        self,
        file: Path,
        outtype: OutType,
        *,
        labels: bool,
        biases: bool,
        activation: str = "gelu",
        eps: float = 1e-5,
        shift: float = 0.0,
        spike: float = 1.0,
        maxima: bool = False,
        per_channel: bool = False,
    ) -> None:
        rng = np.random.RandomState(7)

        def draw(*shape: int, scale: float) -> NDArray[np.float32]:
            return (scale * rng.standard_normal(shape)).astype(np.float32)

        width, self.activation, self.eps = SPEC.hidden, activation, eps
        base = encoder(outtype)
        writer = copy_of(base, file)
        self.dense, self.norm = draw(width, width, scale=0.3), 1 + draw(width, scale=0.3)
        n_out = N_LABELS if labels else SPEC.vocab_size
        self.dense_b, self.norm_b = (draw(width, scale=0.5 * biases) for _ in range(2))
        self.out_b = draw(n_out, scale=0.5 * biases) + np.float32(shift)
        self.norm[3] *= spike
        writer.add_tensor("cls.weight", self.dense)
        writer.add_tensor("cls.norm.weight", self.norm)
        arrays = {"cls.bias": self.dense_b, "cls.norm.bias": self.norm_b}
        if labels:
            self.out = draw(n_out, width, scale=0.3).astype(np.float64)
            writer.add_tensor("cls.output.weight", self.out.astype(np.float32))
            if biases:
                writer.add_tensor("cls.output.bias", self.out_b)
            writer.add_array("modern-bert.classifier.output_labels", [f"LABEL_{i}" for i in range(n_out)])
            writer.add_string("modernbert_llama.task", "token-classification")
        else:
            self.out = embedding(base).astype(np.float64)
            arrays["decoder.bias"] = self.out_b
            writer.add_string("modernbert_llama.task", "fill-mask")
        for name, values in arrays.items() if biases else ():
            key = f"modernbert_llama.head.{name}"
            writer.add_key_value(key, values.tolist(), GGUFValueType.ARRAY, GGUFValueType.FLOAT32)
        writer.add_string("modernbert_llama.head.activation", activation)
        finish(writer)
        self.engine = Engine(str(file), n_threads=2, per_channel=per_channel)
        self.engine.load_head(maxima=maxima)

    def rows(self, ids: list[list[int]]) -> Array:
        hidden = self.engine.embed(ids, "none").astype(np.float64)
        x = ACTIVATIONS[self.activation](hidden @ self.dense.T.astype(np.float64) + self.dense_b)
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + self.eps) * self.norm + self.norm_b
        return np.asarray(x @ self.out.T + self.out_b)


def embedding(file: Path) -> NDArray[np.float32]:
    import gguf

    tensor = next(t for t in gguf.GGUFReader(file).tensors if t.name == "token_embd.weight")
    return np.asarray(dequantize(tensor.data, tensor.tensor_type))


def error(ours: NDArray[Any], reference: Array) -> float:
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize("outtype", BITS)
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("labels", [False, True])
def test_rows(tmp_path: Path, outtype: OutType, biases: bool, labels: bool) -> None:
    head = Head(tmp_path / "h.gguf", outtype, labels=labels, biases=biases)
    reference = head.rows(TEXTS)
    limit = BITS["f32" if labels else outtype]  # the heads of classifiers are always f32
    assert error(head.engine.head_rows(TEXTS), reference) < limit

    chosen = [[0, 8], [], [699, 3, 699], [30], [1], [0, 511, 512, 599]]
    starts = np.cumsum([0, *(len(text) for text in TEXTS[:-1])])
    index = [start + row for start, rows in zip(starts, chosen, strict=True) for row in rows]
    some = head.engine.head_rows(TEXTS, chosen)
    assert error(some, reference[index]) < limit


def test_per_channel(tmp_path: Path) -> None:
    blocks = Head(tmp_path / "h.gguf", "q8_0", labels=False, biases=True)
    channels = Head(tmp_path / "channels.gguf", "q8_0", labels=False, biases=True, per_channel=True)
    rows = channels.engine.head_rows(TEXTS)
    assert error(rows, blocks.rows(TEXTS)) < 5e-2
    if "avx2" in cpu_flags():
        assert (rows != blocks.engine.head_rows(TEXTS)).any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(tmp_path: Path, activation: str) -> None:
    head = Head(tmp_path / "h.gguf", "f32", labels=True, biases=True, activation=activation)
    assert error(head.engine.head_rows(TEXTS[:1]), head.rows(TEXTS[:1])) < 1e-6


def to_dense(csr: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]], shape: tuple[int, ...]) -> Array:
    starts, index, weights = csr
    dense = np.zeros(shape)
    for i in range(shape[0]):
        run = slice(starts[i], starts[i + 1])
        assert (np.diff(index[run]) > 0).all()
        assert (weights[run] > 0).all()
        dense[i, index[run]] = weights[run]
    return dense


@pytest.mark.parametrize("outtype", BITS)
@pytest.mark.parametrize("spike", [1.0, 40.0, 1e4])  # one channel far above the others is badly rounded to 8 bits
@pytest.mark.parametrize("shift", [-4.0, 0.0, 4.0])  # few, half and nearly all outputs are positive
def test_screened_maxima(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outtype: OutType, spike: float, shift: float
) -> None:
    """Those that are found by products of int8 are those of all products."""
    options: dict[str, Any] = {"labels": False, "biases": True, "shift": shift, "spike": spike, "maxima": True}
    head = Head(tmp_path / "h.gguf", outtype, **options)
    if "avx2" in cpu_flags():
        assert head.engine.head_screened
    shape = (len(TEXTS), SPEC.vocab_size)
    first = to_dense(head.engine.head_sparse(TEXTS), shape)
    monkeypatch.setenv("MODERNBERT_LLAMA_NO_SCREEN", "1")
    plain = Head(tmp_path / "plain.gguf", outtype, **options)
    assert not plain.engine.head_screened
    expected = to_dense(plain.engine.head_sparse(TEXTS), shape)
    logits = head.rows(TEXTS)
    ends = np.cumsum([len(text) for text in TEXTS])[:-1]
    reference = np.log1p(np.maximum(np.stack([part.max(0) for part in np.split(logits, ends)]), 0))
    # log1p is nowhere steeper than 1
    limit = BITS[outtype] * np.abs(logits).max()
    assert np.abs(expected - reference).max() < limit
    assert np.abs(first - reference).max() < limit
    if outtype == "f32":
        assert ((first > 1e-4) == (reference > 1e-4)).all()

    # outputs that are too much alike are computed as ever, once that has shown; the file is not read again for it
    (tmp_path / "h.gguf").unlink()
    for _ in range(3):
        again = to_dense(head.engine.head_sparse(TEXTS), shape)
    assert np.abs(again - first).max() < limit
    if spike > 100:
        assert not head.engine.head_screened
    elif shift < 0 and spike == 1:
        assert head.engine.head_screened == ("avx2" in cpu_flags())
    # and the other products are there as well
    rows = head.engine.head_rows(TEXTS)
    assert error(rows, logits) < BITS[outtype]


@pytest.mark.parametrize("outtype", BITS)
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("pooling", ["max", "sum"])
def test_sparse(tmp_path: Path, outtype: OutType, biases: bool, twice: bool, pooling: str) -> None:
    head = Head(tmp_path / "h.gguf", outtype, labels=False, biases=biases)
    logits = head.rows(TEXTS)
    values = np.log1p(np.maximum(logits, 0))
    if twice:
        values = np.log1p(values)
    ends = np.cumsum([len(text) for text in TEXTS])
    parts = np.split(values, ends[:-1])
    reference = np.stack([part.max(0) if pooling == "max" else part.sum(0) for part in parts])

    dense = to_dense(head.engine.head_sparse(TEXTS, pooling, twice), reference.shape)
    for ours, theirs, part in zip(dense, reference, parts, strict=True):
        if outtype == "f32":
            assert error(ours, theirs) < BITS[outtype]
        # the logarithm is nowhere steeper than 1: a weight errs by no more than the logits that it comes from
        n_terms = 1 if pooling == "max" else len(part)
        assert np.abs(ours - theirs).max() < BITS[outtype] * np.abs(logits).max() * n_terms

    starts, index, _ = head.engine.head_sparse(TEXTS, pooling, twice, top_k=7)
    assert np.diff(starts).tolist() == [7] * len(TEXTS)
    for i in range(len(TEXTS)):
        run = slice(starts[i], starts[i + 1])
        assert set(index[run]) == set(np.argsort(-dense[i], kind="stable")[:7])


def test_input_that_cannot_be(tmp_path: Path) -> None:
    engine = Head(tmp_path / "h.gguf", "f32", labels=False, biases=False).engine
    assert engine.load_head() == engine.n_vocab
    assert engine.head_rows([]).shape == (0, engine.n_vocab)
    assert engine.head_rows([[1, 2]], [[]]).shape == (0, engine.n_vocab)
    starts, index, weights = engine.head_sparse([])
    assert (starts.tolist(), len(index), len(weights)) == ([0], 0, 0)
    for rows in ([[2]], [[-1]], [[0], [0]], []):
        with pytest.raises(InputError):
            engine.head_rows([[1, 2]], rows)
    for call in (
        lambda: engine.head_rows([[]]),
        lambda: engine.head_rows([[engine.n_vocab]]),
        lambda: engine.head_sparse([[1]], "mean"),
        lambda: engine.head_sparse([[1]], top_k=-1),
    ):
        with pytest.raises(InputError):
            call()


def test_files_without_a_head_or_with_a_damaged_one(tmp_path: Path) -> None:
    file = encoder("f32")
    with pytest.raises(ModelFileError, match="no head"):
        Engine(str(file), n_threads=1).load_head()

    width = SPEC.hidden
    good: dict[str, NDArray[np.float32]] = {
        "cls.weight": np.eye(width, dtype=np.float32),
        "cls.norm.weight": np.ones(width, np.float32),
    }

    def broken(message: str, tensors: dict[str, Any], **keys: Any) -> None:
        writer = copy_of(file, tmp_path / "broken.gguf")
        writer.add_string("modernbert_llama.task", "fill-mask")
        for name, values in (good | tensors).items():
            if values is not None:
                writer.add_tensor(name, values)
        for key, value in keys.items():
            if isinstance(value, str):
                writer.add_string(f"modernbert_llama.head.{key}", value)
            else:
                key = f"modernbert_llama.head.{key.replace('__', '.')}"
                writer.add_key_value(key, value, GGUFValueType.ARRAY, GGUFValueType.FLOAT32)
        finish(writer)
        with pytest.raises(ModelFileError, match=message):
            Engine(str(tmp_path / "broken.gguf"), n_threads=1).load_head()

    broken("cls.weight", {"cls.weight": np.ones((width, 2 * width), np.float32)})
    broken("cls.norm.weight", {"cls.norm.weight": np.ones(width - 1, np.float32)})
    broken("no head", {"cls.norm.weight": None})
    broken("cls.weight.*NaN", {"cls.weight": np.full((width, width), np.nan, np.float32)})
    broken("cls.norm.weight.*NaN", {"cls.norm.weight": np.full(width, np.inf, np.float32)})
    broken("decoder.bias", {}, decoder__bias=[1.0, 2.0])
    broken("cls.bias.*NaN", {}, cls__bias=[np.nan] * width)
    broken("activation", {}, activation="swiglu")


def test_what_overflows_is_named(tmp_path: Path) -> None:
    file = encoder("f32")
    writer = copy_of(file, tmp_path / "large.gguf")
    writer.add_string("modernbert_llama.task", "sparse-embedding")
    writer.add_tensor("cls.weight", np.full((SPEC.hidden, SPEC.hidden), 3e38, np.float32))
    writer.add_tensor("cls.norm.weight", np.ones(SPEC.hidden, np.float32))
    finish(writer)
    engine = Engine(str(tmp_path / "large.gguf"), n_threads=1)
    for call in (engine.head_rows, engine.head_sparse):
        with pytest.raises(ModelFileError, match="overflow"):
            call([[1, 2, 3]])


def test_a_file_of_quantised_weights_has_its_head_checked(tmp_path: Path) -> None:
    """Scales of Q8_0 that are infinite: found when the head is read."""
    head = Head(tmp_path / "h.gguf", "q8_0", labels=False, biases=False)
    data = bytearray((tmp_path / "h.gguf").read_bytes())
    rows = quantize(embedding(tmp_path / "h.gguf"), GGMLQuantizationType.Q8_0)
    at = data.find(rows[200].tobytes())
    assert at > 0
    data[at : at + 2] = b"\x00\x7c"
    (tmp_path / "inf.gguf").write_bytes(data)
    with pytest.raises(ModelFileError, match=r"token_embd.weight.*NaN or infinity"):
        Engine(str(tmp_path / "inf.gguf"), n_threads=1).load_head()
    assert head.engine.load_head() > 0

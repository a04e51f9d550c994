"""Quantised embeddings, similarity and activations, against values that sentence-transformers and torch gave."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from modernbert_llama.errors import InputError
from modernbert_llama.precision import quantize_embeddings, quantized_width
from modernbert_llama.similarity import similarity
from modernbert_llama.steps import ACTIVATIONS, Dense, LayerNorm, Normalize, Step, decode_steps, encode_steps
from numpy.typing import NDArray
from specs import GOLDEN

RANDOM = np.random.default_rng(5)


def known() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / "steps.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_equal_torchs(name: str) -> None:
    x = np.array(known()["inputs"])
    np.testing.assert_allclose(ACTIVATIONS[name](x), known()["activations"][name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_equal_theirs(name: str) -> None:
    x = np.array(known()["inputs"])
    ours = similarity(name, x[:1], x)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, known()["similarities"][name], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(similarity(name, x[0], x), ours)  # one vector is one row


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_precisions_equal_theirs(precision: Any) -> None:
    x = np.array(known()["embeddings"], np.float32)
    expected = known()["quantized"][precision]
    for ours, theirs in zip(
        (quantize_embeddings(x, precision), quantize_embeddings(x, precision, ranges=np.array(known()["ranges"]))),
        expected,
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.shape == (len(x), quantized_width(x.shape[1], precision))
        assert ours.dtype == (np.int8 if precision in ("int8", "binary") else np.uint8)
    calibrated = quantize_embeddings(x[:1], precision, calibration_embeddings=x)
    np.testing.assert_array_equal(calibrated[0], expected[0][0])
    assert quantize_embeddings(x[:0], precision).shape == (0, quantized_width(x.shape[1], precision))


def test_a_dimension_without_a_range() -> None:
    x = np.array([[1.0, 2.0], [1.0, 4.55]], np.float32)
    assert quantize_embeddings(x, "uint8")[:, 0].tolist() == [0, 0]


def test_quantisation_refuses() -> None:
    x = np.ones((1, 4), np.float32)
    for values, precision, options, named in (
        (x, "int4", {}, "int4"),
        (x, "int8", {}, "one embedding"),
        (x[0], "uint8", {}, "one embedding"),
        (x.astype(np.int8), "int8", {}, "float"),
        (x, "int8", {"ranges": np.zeros((2, 3))}, "ranges"),
        (x, "int8", {"calibration_embeddings": np.zeros((0, 4))}, "calibration"),
    ):
        with pytest.raises(InputError, match=named):
            quantize_embeddings(values, precision, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="compared"):
        similarity("dot", np.ones((2, 3)), np.ones((2, 4)))


STEPS: tuple[Step, ...] = (
    Dense("PReLU", RANDOM.random((6, 4), np.float32), slope=np.array([0.25], np.float32)),
    LayerNorm(RANDOM.random(6, np.float32), RANDOM.random(6, np.float32)),
    Normalize(),
    Dense(
        "GELU", RANDOM.random((3, 6), np.float32), RANDOM.random(3, np.float32), True, RANDOM.random((3, 6), np.float32)
    ),
    Dense("Identity", RANDOM.random((3, 3), np.float32), use_residual=True),
)


def test_steps_come_back_from_a_file() -> None:
    text, arrays = encode_steps(STEPS)
    back = decode_steps(text, lambda name: arrays[name].ravel() if name in arrays else None, 4)
    x: NDArray[np.float64] = RANDOM.standard_normal((5, 4))
    for step, same in zip(STEPS, back, strict=True):
        y = step(x)
        np.testing.assert_array_equal(same(x), y)
        x = y
    assert x.shape == (5, 3)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "Expecting"),
        ("{}", "not a list"),
        ("[1]", "step 0"),
        ('[{"type": "CNN"}]', "'CNN'"),
        ('[{"type": "Dense", "in_features": 5}]', "step 0 takes 5 values"),
        ('[{"type": "Dense", "in_features": 4, "out_features": 0}]', "gives 0"),
        ('[{"type": "Dense", "in_features": 4, "out_features": 6, "activation": "GLU"}]', "'GLU'"),
        ('[{"type": "Dense", "in_features": 4, "out_features": 7, "activation": "Tanh"}]', "weight of step 0"),
        ('[{"type": "Normalize"}, {"type": "LayerNorm", "eps": 1e-5}]', "weight of step 1"),
        ('[{"type": "LayerNorm"}]', "step 0"),
    ],
)
def test_damaged_steps(text: str, named: str) -> None:
    arrays = encode_steps(STEPS)[1]
    with pytest.raises(ValueError, match=named):
        decode_steps(text, lambda name: arrays[name].ravel() if name in arrays else None, 4)

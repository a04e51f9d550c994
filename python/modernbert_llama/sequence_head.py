"""The head of a cross-encoder or text classifier, in float64: from pooled vectors to a logit for each label.

It is small beside one forward pass of the encoder: the dense layer alone multiplies as much as one layer of the encoder
does for a third of one token.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from modernbert_llama import keys
from modernbert_llama.errors import ModelFileError
from modernbert_llama.model_info import ModelInfo
from modernbert_llama.native import read_metadata, read_tensors
from modernbert_llama.steps import ACTIVATIONS, Dense, LayerNorm, Step, width_after

__all__ = ["head_weights", "sequence_head"]

# keys.HEAD_ACTIVATION -> steps.ACTIVATIONS
_ACTIVATIONS: Final = {
    "gelu": "GELU",
    "gelu_pytorch_tanh": "GELUTanh",
    "relu": "ReLU",
    "sigmoid": "Sigmoid",
    "silu": "SiLU",
    "tanh": "Tanh",
}


def head_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """The float32 weights of a file's head by their GGUF names; those from keys are flat."""
    weights = read_tensors(str(path), "cls.")
    for key, value in read_metadata(str(path)).items():
        if key.startswith(keys.HEAD_ARRAY) and isinstance(value, np.ndarray):
            weights[key.removeprefix(keys.HEAD_ARRAY)] = value
    return weights


def sequence_head(path: Path, info: ModelInfo, width: int) -> tuple[Step, ...]:
    """The steps from pooled vectors of ``width`` values to logits.

    Raises:
        ModelFileError: a head that is missing, or whose weights do not fit.
    """
    if info.steps:
        return _checked(path, info.steps, width)
    weights = head_weights(path)
    if info.head_activation not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise ModelFileError(f"{path}: key {keys.HEAD_ACTIVATION!r} is {info.head_activation!r}; known are {known}")
    if "cls.output.weight" not in weights:
        raise ModelFileError(f"{path} has no head: tensor 'cls.output.weight' is missing")
    n_labels = weights["cls.output.weight"].size // width
    steps: list[Step] = []
    if "cls.weight" in weights:
        steps.append(
            Dense(
                _ACTIVATIONS[info.head_activation],
                _take(path, weights, "cls.weight", (width, width)),
                _take(path, weights, "cls.bias", (width,)) if "cls.bias" in weights else None,
            )
        )
    if "cls.norm.weight" in weights:
        zeros = np.zeros(width, np.float32)
        bias = _take(path, weights, "cls.norm.bias", (width,)) if "cls.norm.bias" in weights else zeros
        steps.append(LayerNorm(_take(path, weights, "cls.norm.weight", (width,)), bias, info.norm_eps))
    steps.append(
        Dense(
            "Identity",
            _take(path, weights, "cls.output.weight", (n_labels, width)),
            _take(path, weights, "cls.output.bias", (n_labels,)) if "cls.output.bias" in weights else None,
        )
    )
    return tuple(steps)


def _take(
    path: Path, weights: Mapping[str, NDArray[np.float32]], name: str, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    values = weights.get(name)
    if values is None or values.size != np.prod(shape) or not values.size:
        found = "missing" if values is None else f"of {values.size} values"
        raise ModelFileError(f"{path}: {name!r} of the head is {found}, expected the shape {list(shape)}")
    if not np.isfinite(values).all():
        raise ModelFileError(f"{path}: {name!r} of the head holds a NaN or an infinity")
    return values.reshape(shape)


def _checked(path: Path, steps: tuple[Step, ...], width: int) -> tuple[Step, ...]:
    for step in steps:
        inputs = step.weight.shape[-1] if isinstance(step, (Dense, LayerNorm)) else width
        if inputs != width:
            raise ModelFileError(f"{path}: {type(step).__name__} takes {inputs} values and gets {width}")
        width = width_after(step, width)
    return steps


def activate(name: str, logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """A function of torch.nn over logits of shape (n, labels)."""
    return np.asarray(ACTIVATIONS[name](logits))

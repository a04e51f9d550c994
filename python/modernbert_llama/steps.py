"""The steps of a sentence-transformers pipeline behind the pooling: what they are, in a GGUF file and in numpy.

A step maps float64 vectors of shape (n, inputs) to (n, outputs). They are small beside one forward pass of the encoder,
so they are computed in float64 and their weights are kept in float32.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ACTIVATIONS",
    "Dense",
    "LayerNorm",
    "Normalize",
    "Step",
    "decode_steps",
    "encode_steps",
    "normalized",
    "width_after",
]

Vectors: TypeAlias = NDArray[np.float64]
Weights: TypeAlias = NDArray[np.float32]

_erf: Final = np.vectorize(math.erf, otypes=[np.float64])


def _softplus(x: Vectors) -> Vectors:
    return np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20))))  # torch is linear above its threshold of 20


def _sigmoid(x: Vectors) -> Vectors:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _expm1(x: Vectors) -> Vectors:
    return np.expm1(np.minimum(x, 0))


def _softmax(x: Vectors) -> Vectors:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _log_softmax(x: Vectors) -> Vectors:
    shifted = x - x.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946

# the classes of torch.nn that can be made without arguments, with torch's defaults, as they are in evaluation
ACTIVATIONS: Final[Mapping[str, Callable[[Vectors], Vectors]]] = {
    "CELU": lambda x: np.maximum(x, 0) + _expm1(x),
    "ELU": lambda x: np.maximum(x, 0) + _expm1(x),
    "GELU": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "GELUTanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),  # transformers'
    "Hardshrink": lambda x: np.where(np.abs(x) > 0.5, x, 0.0),
    "Hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "Hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "Hardtanh": lambda x: np.clip(x, -1, 1),
    "Identity": lambda x: x,
    "LeakyReLU": lambda x: np.where(x > 0, x, 0.01 * x),
    "LogSigmoid": lambda x: -np.logaddexp(0, -x),
    "LogSoftmax": _log_softmax,
    "Mish": lambda x: x * np.tanh(_softplus(x)),
    "RReLU": lambda x: np.where(x > 0, x, (1 / 8 + 1 / 3) / 2 * x),
    "ReLU": lambda x: np.maximum(x, 0),
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "SELU": lambda x: _SELU_SCALE * (np.maximum(x, 0) + _SELU_ALPHA * _expm1(x)),
    "SiLU": lambda x: x * _sigmoid(x),
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "Softmin": lambda x: _softmax(-x),
    "Softplus": _softplus,
    "Softshrink": lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Tanh": np.tanh,
    "Tanhshrink": lambda x: x - np.tanh(x),
}


def normalized(vectors: Vectors) -> Vectors:
    """Rows of length 1; the floor is that of ``torch.nn.functional.normalize``."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


@dataclass(frozen=True)
class Normalize:
    """Scales to length 1."""

    def __call__(self, x: Vectors) -> Vectors:
        return normalized(x)


@dataclass(frozen=True)
class Dense:
    """``activation(x @ weight.T + bias)``, plus ``x`` or ``x @ residual.T`` where the module has a residual.

    ``weight`` and ``residual`` are (outputs, inputs), ``bias`` is (outputs,). ``slope`` is the weight of a PReLU.
    """

    activation: str
    weight: Weights = field(repr=False)
    bias: Weights | None = field(default=None, repr=False)
    use_residual: bool = False
    residual: Weights | None = field(default=None, repr=False)
    slope: Weights | None = field(default=None, repr=False)

    @functools.cached_property
    def _exact(self) -> tuple[Vectors, Vectors | None]:
        """The matrices in float64, (inputs, outputs): to convert them takes longer than to multiply one vector."""
        residual = None if self.residual is None else self.residual.T.astype(np.float64)
        return self.weight.T.astype(np.float64), residual

    def __call__(self, x: Vectors) -> Vectors:
        weight, residual = self._exact
        y = x @ weight
        if self.bias is not None:
            y += self.bias
        y = np.where(y > 0, y, y * self.slope) if self.slope is not None else ACTIVATIONS[self.activation](y)
        if residual is not None:
            return np.asarray(y + x @ residual)
        return np.asarray(y + x if self.use_residual else y)


@dataclass(frozen=True)
class LayerNorm:
    """torch's LayerNorm over the vector; both arrays are (width,)."""

    weight: Weights = field(repr=False)
    bias: Weights = field(repr=False)
    eps: float = 1e-5

    def __call__(self, x: Vectors) -> Vectors:
        centred = x - x.mean(axis=1, keepdims=True)
        variance = (centred**2).mean(axis=1, keepdims=True)
        return np.asarray(centred / np.sqrt(variance + self.eps) * self.weight + self.bias)


Step: TypeAlias = Dense | LayerNorm | Normalize


def width_after(step: Step, width: int) -> int:
    """Columns of the step's output."""
    return step.weight.shape[0] if isinstance(step, Dense) else width


# --- in a GGUF file: a list of objects, and float32 arrays beside it --------------------------------------------------

_ARRAYS: Final = ("weight", "bias", "residual", "slope")


def encode_steps(steps: Sequence[Step]) -> tuple[str, dict[str, Weights]]:
    """A JSON list of the steps, and the arrays by the end of their key, "0.weight"."""
    entries: list[dict[str, object]] = []
    arrays: dict[str, Weights] = {}
    for index, step in enumerate(steps):
        entry: dict[str, object] = {"type": type(step).__name__}
        if isinstance(step, Dense):
            entry |= {"in_features": step.weight.shape[1], "out_features": step.weight.shape[0]}
            entry |= {"activation": step.activation, "use_residual": step.use_residual}
        elif isinstance(step, LayerNorm):
            entry["eps"] = step.eps
        for name in _ARRAYS:
            value = getattr(step, name, None)
            if value is not None:
                arrays[f"{index}.{name}"] = value
        entries.append(entry)
    return json.dumps(entries), arrays


def decode_steps(text: str, array: Callable[[str], Weights | None], width: int) -> tuple[Step, ...]:
    """The inverse of :func:`encode_steps`: ``array`` gives a flat array by the end of its key, ``width`` the input's.

    Raises ``ValueError`` with what is wrong.
    """
    entries = json.loads(text)
    if not isinstance(entries, list):
        raise ValueError("not a list")
    steps: list[Step] = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"step {index} is not an object")
        steps.append(_Decoder(index, entry, array).step(width))
        width = width_after(steps[-1], width)
    return tuple(steps)


@dataclass(frozen=True)
class _Decoder:
    """One entry of the list; every complaint names its index."""

    index: int
    entry: Mapping[str, object]
    array: Callable[[str], Weights | None]

    def step(self, width: int) -> Step:
        kind = self.entry.get("type")
        if kind == "Normalize":
            return Normalize()
        if kind == "LayerNorm":
            return LayerNorm(self.weights("weight", width), self.weights("bias", width), self.eps())
        if kind == "Dense":
            return self.dense(width)
        raise ValueError(f"step {self.index} is a {kind!r}, which is not known")

    def dense(self, width: int) -> Dense:
        outputs, activation = self.entry.get("out_features"), self.entry.get("activation")
        if self.entry.get("in_features") != width:
            raise ValueError(f"step {self.index} takes {self.entry.get('in_features')} values, and gets {width}")
        if not isinstance(outputs, int) or not 0 < outputs < 2**24:
            raise ValueError(f"step {self.index} gives {outputs!r} values")
        if not isinstance(activation, str) or activation not in (*ACTIVATIONS, "PReLU"):
            raise ValueError(f"step {self.index} has the activation {activation!r}, which is not known")
        use_residual = bool(self.entry.get("use_residual"))
        return Dense(
            activation,
            self.weights("weight", outputs, width),
            self.optional("bias", outputs),
            use_residual,
            self.weights("residual", outputs, width) if use_residual and outputs != width else None,
            self.weights("slope", 1) if activation == "PReLU" else None,
        )

    def optional(self, name: str, *shape: int) -> Weights | None:
        found = self.array(f"{self.index}.{name}")
        if found is None:
            return None
        if found.size != math.prod(shape) or not np.isfinite(found).all():
            raise ValueError(f"the {name} of step {self.index} is not {math.prod(shape)} finite values")
        return found.reshape(shape)

    def weights(self, name: str, *shape: int) -> Weights:
        found = self.optional(name, *shape)
        if found is None:
            raise ValueError(f"step {self.index} has no {name}")
        return found

    def eps(self) -> float:
        value = self.entry.get("eps")
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"the eps of step {self.index} is {value!r}")
        return float(value)

"""Embeddings of one byte or one bit a value, as sentence-transformers' ``quantize_embeddings`` computes them."""

from __future__ import annotations

import logging
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modernbert_llama.errors import InputError

__all__ = ["PRECISIONS", "Precision", "quantize_embeddings", "quantized_width"]

_log = logging.getLogger(__name__)

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)

_FEW: Final = 100  # embeddings below which sentence-transformers warns of unstable ranges


def check_precision(precision: str) -> None:
    """Raises ``InputError`` for an unknown one."""
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")


def quantized_width(width: int, precision: Precision) -> int:
    """Values of a vector of ``width`` floats: eight bits are packed into one."""
    return (width + 7) // 8 if precision in ("binary", "ubinary") else width


def quantize_embeddings(
    embeddings: ArrayLike,
    precision: Precision,
    *,
    ranges: ArrayLike | None = None,
    calibration_embeddings: ArrayLike | None = None,
) -> NDArray[Any]:
    """Quantise float embeddings of shape (n, d), or (d,).

    "int8" and "uint8" cut the range of each dimension into 256 steps. ``ranges``, of shape (2, d), holds the smallest
    and the largest value of each dimension; without it they are those of ``calibration_embeddings``, else of
    ``embeddings`` themselves, which compares only with vectors quantised in the same call. "binary" and "ubinary" keep
    the signs, eight to a byte, the former as int8.

    Returns: float32, int8, uint8, int8 or uint8 of shape (n, d), or (n, ceil(d / 8)) for the last two.

    Raises:
        InputError: an unknown precision; one embedding alone to take ranges from; ranges of another shape.
    """
    check_precision(precision)
    values = np.asarray(embeddings)
    if values.dtype.kind != "f" or values.ndim not in (1, 2):
        raise InputError(f"embeddings are {values.dtype} of shape {values.shape}, expected floats of shape (n, d)")
    if precision == "float32":
        return values.astype(np.float32)
    if precision in ("binary", "ubinary"):
        bits: NDArray[np.uint8] = np.packbits(values > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    dtype = np.int8 if precision == "int8" else np.uint8
    if not len(values):
        return np.zeros(values.shape, dtype)
    limits = _ranges(values, precision, calibration_embeddings) if ranges is None else np.asarray(ranges)
    if limits.shape != (2, values.shape[-1]):
        raise InputError(f"ranges have shape {limits.shape}, expected (2, {values.shape[-1]})")
    # in float32, as sentence-transformers computes it: the values lie on the edges of the steps
    limits = limits.astype(np.float32)
    start, step = limits[0], (limits[1] - limits[0]) / 255
    step = np.where(step == 0, 1, step)
    levels = np.clip(np.floor((values - start) / step), 0, 255)
    return np.asarray(levels - 128 if precision == "int8" else levels, dtype)


def _ranges(values: NDArray[Any], precision: str, calibration: ArrayLike | None) -> NDArray[Any]:
    if calibration is None:
        if values.ndim == 1 or len(values) == 1:
            raise InputError(
                f"one embedding alone has no ranges for {precision}: embed more texts at once, or call "
                "quantize_embeddings with ranges or calibration_embeddings of many"
            )
        if len(values) < _FEW:
            _log.warning("the %s ranges come from only %d embeddings", precision, len(values))
        calibration = values
    sample = np.asarray(calibration)
    if sample.ndim != 2 or not len(sample):
        raise InputError(f"calibration_embeddings have shape {sample.shape}, expected (n, d) with n > 0")
    return np.vstack((sample.min(axis=0), sample.max(axis=0)))

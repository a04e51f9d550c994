"""Similarity of embeddings by the functions of sentence-transformers, in numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modernbert_llama.errors import InputError
from modernbert_llama.steps import normalized

__all__ = ["LATE_SIMILARITIES", "SIMILARITIES", "similarity"]

LATE_SIMILARITIES: Final = ("maxsim", "meanmaxsim")  # of a vector a token; the second divides by the query's tokens

_ROWS: Final = 64  # of the first side at once, where every pair of rows needs a difference


def _by_difference(a: NDArray[np.float64], b: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """The negated distance of every pair of rows."""
    result = np.empty((len(a), len(b)))
    for start in range(0, len(a), _ROWS):
        difference = a[start : start + _ROWS, None, :] - b[None, :, :]
        result[start : start + _ROWS] = -np.linalg.norm(difference, ord=order, axis=2)
    return result


# (n, d) and (m, d) -> (n, m); larger is nearer
SIMILARITIES: Final[Mapping[str, Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]]] = {
    "cosine": lambda a, b: normalized(a) @ normalized(b).T,
    "dot": lambda a, b: a @ b.T,
    "euclidean": lambda a, b: _by_difference(a, b, 2),
    "manhattan": lambda a, b: _by_difference(a, b, 1),
}


def similarity(name: str, a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Float32 of shape (n, m) for embeddings of shape (n, d) and (m, d); a single (d,) counts as one row.

    ``name`` is "cosine", "dot", "euclidean" or "manhattan"; the last two are distances, negated.
    """
    first, second = (np.atleast_2d(np.asarray(x, np.float64)) for x in (a, b))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise InputError(f"embeddings of shapes {np.shape(a)} and {np.shape(b)} cannot be compared")
    return SIMILARITIES[name](first, second).astype(np.float32)

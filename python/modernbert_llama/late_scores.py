"""Late interaction: the score of a query's vectors against a document's, for many of both."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from modernbert_llama.errors import InputError

__all__ = ["MultiVectors", "maxsim", "pack", "token_counts", "unpack"]

Vectors: TypeAlias = NDArray[np.float32]
# an array for each text, or all of them in one with the offsets between the texts
MultiVectors: TypeAlias = "Sequence[Vectors] | tuple[Vectors, NDArray[np.int64]]"

_BLOCK = 1 << 24  # products in memory at once


def pack(vectors: Sequence[Vectors], dim: int) -> tuple[Vectors, NDArray[np.int64]]:
    """One array of all vectors, and the offsets (n + 1,): text i is ``rows[offsets[i]:offsets[i + 1]]``."""
    offsets = np.zeros(len(vectors) + 1, np.int64)
    np.cumsum([len(item) for item in vectors], out=offsets[1:])
    return np.concatenate(vectors) if vectors else np.zeros((0, dim), np.float32), offsets


def unpack(rows: Vectors, offsets: NDArray[np.int64]) -> list[Vectors]:
    """The inverse of :func:`pack`; the arrays are views."""
    return [rows[start:stop] for start, stop in itertools.pairwise(offsets)]


def token_counts(vectors: MultiVectors) -> NDArray[np.int64]:
    """How many vectors each text has."""
    return np.diff(_packed("vectors", vectors)[1])


def maxsim(queries: MultiVectors, documents: MultiVectors) -> NDArray[np.float32]:
    """Score every query against every document: the sum over the query's vectors of the largest dot product.

    Args:
        queries: n arrays of shape (n_tokens, dim), or the pair that ``packed=True`` gives.
        documents: m of the same.

    Returns:
        float32 of shape (n, m), larger is better; 0 where one of the two has no vectors.

    Raises:
        InputError: arrays of another shape, offsets that do not fit, or different widths.
    """
    q, q_offsets = _packed("queries", queries)
    d, d_offsets = _packed("documents", documents)
    n, m = len(q_offsets) - 1, len(d_offsets) - 1
    if len(q) == 0 or len(d) == 0:
        return np.zeros((n, m), np.float32)
    if q.shape[1] != d.shape[1]:
        raise InputError(f"queries are {q.shape[1]} wide and documents {d.shape[1]}")
    scores = np.zeros((n, m), np.float32)
    # reduceat gives the element itself for an empty segment: leave the empty ones out
    n_filled, m_filled = np.flatnonzero(np.diff(q_offsets)), np.flatnonzero(np.diff(d_offsets))
    query_starts = q_offsets[n_filled]
    found = np.empty((len(n_filled), len(m_filled)), np.float32)
    for first, last in _blocks(d_offsets[m_filled], d_offsets[m_filled + 1], max(_BLOCK // len(q), 1)):
        start, stop = d_offsets[m_filled[first]], d_offsets[m_filled[last - 1] + 1]
        products = d[start:stop] @ q.T  # (document tokens, query tokens)
        best = np.maximum.reduceat(products, d_offsets[m_filled[first:last]] - start, axis=0)
        found[:, first:last] = np.add.reduceat(best, query_starts, axis=1, dtype=np.float64).T
    scores[np.ix_(n_filled, m_filled)] = found
    return scores


def _blocks(starts: NDArray[np.int64], stops: NDArray[np.int64], n_rows: int) -> list[tuple[int, int]]:
    """Runs of texts of about ``n_rows`` vectors together."""
    blocks, first = [], 0
    for i in range(len(starts)):
        if i + 1 == len(starts) or stops[i + 1] - starts[first] > n_rows:
            blocks.append((first, i + 1))
            first = i + 1
    return blocks


def _packed(name: str, vectors: MultiVectors) -> tuple[Vectors, NDArray[np.int64]]:
    if isinstance(vectors, tuple) and len(vectors) == 2 and np.ndim(vectors[1]) == 1 and np.ndim(vectors[0]) == 2:
        rows, offsets = np.asarray(vectors[0], np.float32), np.asarray(vectors[1])
        if (
            offsets.dtype.kind not in "iu"
            or len(offsets) == 0
            or offsets[0] != 0
            or offsets[-1] != len(rows)
            or (np.diff(offsets) < 0).any()
        ):
            raise InputError(f"the offsets of {name} do not rise from 0 to its {len(rows)} vectors")
        return rows, offsets.astype(np.int64)
    arrays = [np.asarray(item, np.float32) for item in vectors]
    for i, item in enumerate(arrays):
        if item.ndim != 2 or item.shape[1] != arrays[0].shape[1]:
            width = arrays[0].shape[1] if arrays[0].ndim == 2 else "dim"
            raise InputError(f"{name}[{i}] has shape {item.shape}, expected (n_tokens, {width})")
    return pack(arrays, 0)

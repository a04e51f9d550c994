"""Sparse embeddings: compressed rows, and what is done with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modernbert_llama.errors import InputError

__all__ = ["SparseEmbeddings", "SparseVector", "sparse_similarity"]


class SparseVector(NamedTuple):
    """The values of one text that are not zero: int32 ``indices``, increasing, and float32 ``weights``, both (k,)."""

    indices: NDArray[np.int32]
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class SparseEmbeddings:
    """The embeddings of n texts as the rows of a CSR matrix of shape (n, dim).

    ``indptr`` int64 (n + 1,), ``indices`` int32 and ``data`` float32 (k,), as in :class:`scipy.sparse.csr_matrix`. A
    sequence of :class:`SparseVector`: ``len``, an index and iteration work.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    data: NDArray[np.float32]
    dim: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.dim

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, index: int) -> SparseVector:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{index} of {len(self)} embeddings")
        start = index % len(self)
        part = slice(int(self.indptr[start]), int(self.indptr[start + 1]))
        return SparseVector(self.indices[part], self.data[part])

    def __iter__(self) -> Iterator[SparseVector]:
        return (self[index] for index in range(len(self)))

    def to_dense(self) -> NDArray[np.float32]:
        """Float32 of shape (n, dim)."""
        dense = np.zeros(self.shape, np.float32)
        dense[self.rows, self.indices] = self.data
        return dense

    def to_scipy(self) -> Any:
        """A :class:`scipy.sparse.csr_matrix` over the same memory; needs scipy.

        Raises:
            ImportError: scipy is not installed.
        """
        try:
            from scipy.sparse import csr_matrix
        except ImportError as error:
            raise ImportError("to_scipy() needs scipy: pip install scipy") from error
        return csr_matrix((self.data, self.indices, self.indptr), shape=self.shape)

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row of each value."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))

    def _sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(self.rows, values, minlength=len(self)), np.float64)


def sparse_similarity(name: str, first: SparseEmbeddings, second: SparseEmbeddings) -> NDArray[np.float32]:
    """As :func:`~modernbert_llama.similarity.similarity`: float32 of shape (n, m). Values must not be negative."""
    if first.dim != second.dim:
        raise InputError(f"embeddings of the widths {first.dim} and {second.dim} cannot be compared")
    a, b = first.data.astype(np.float64), second.data.astype(np.float64)
    result = np.empty((len(first), len(second)))
    rows = first.rows
    for index in range(len(second)):
        part = slice(int(second.indptr[index]), int(second.indptr[index + 1]))
        row = np.zeros(first.dim)
        row[second.indices[part]] = b[part]
        other = row[first.indices]
        # |a - b| = a + b - 2 min(a, b)
        common = np.minimum(a, other) if name == "manhattan" else a * other
        result[:, index] = np.bincount(rows, common, minlength=len(first))
    if name == "dot":
        return result.astype(np.float32)
    power = 1 if name == "manhattan" else 2
    sizes_a, sizes_b = first._sums(a**power)[:, None], second._sums(b**power)[None, :]
    if name == "cosine":
        return np.asarray(result / np.maximum(np.sqrt(sizes_a) * np.sqrt(sizes_b), 1e-12), np.float32)
    distance = np.maximum(sizes_a + sizes_b - 2 * result, 0)
    return np.asarray(-np.sqrt(distance) if name == "euclidean" else -distance, np.float32)

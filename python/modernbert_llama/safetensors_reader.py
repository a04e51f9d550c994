"""Reads safetensors files one tensor (or a range of its rows) at a time, as float32.

The ``safetensors`` package cannot give bfloat16 to numpy, and mapping the file would count it all as resident memory;
the format itself is small: a length, a JSON header, the bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modernbert_llama.errors import CheckpointError, ModelNotFoundError, UnsupportedError

__all__ = ["StoredTensor", "read_tensors", "take_tensor"]

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_MAX_HEADER = 100_000_000  # the format's own limit, bytes


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: ``offset`` is in bytes from the start of ``path``."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def read(self, rows: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """The tensor, or the rows ``[start, stop)`` of its first axis, in row-major order.

        Raises ``CheckpointError`` if it holds a NaN or an infinity, in float32.
        """
        dtype = np.dtype(_DTYPES[self.dtype])
        start, stop = rows or (0, self.shape[0] if self.shape else 1)
        width = math.prod(self.shape[1:])
        shape = (stop - start, *self.shape[1:]) if self.shape else ()
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset + start * width * dtype.itemsize)
                stored = np.fromfile(file, dtype, (stop - start) * width)
        except OSError as error:
            raise ModelNotFoundError(f"{self.path} cannot be read: {error.strerror or error}") from error
        if stored.size != (stop - start) * width:
            raise CheckpointError(f"{self.path} ends in the middle of tensor {self.name!r}")
        if self.dtype == "BF16":
            values = (stored.astype(np.uint32) << 16).view(np.float32)
        else:
            with np.errstate(over="ignore"):
                values = stored.astype(np.float32, copy=False)
        finite = np.isfinite(values)
        if not finite.all():
            index = np.unravel_index(int(np.argmin(finite)) + start * width, self.shape)
            what = "NaN" if np.isnan(values.flat[int(np.argmin(finite))]) else "an infinity, or too large for float32"
            where = [int(i) for i in index]
            raise CheckpointError(f"{self.path}: tensor {self.name!r} holds {what} at index {where}")
        return values.reshape(shape)


def read_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file by name; their dtypes are known, and their bytes lie inside the file.

    Raises ``CheckpointError`` for a damaged file and ``UnsupportedError`` for a dtype that is not a plain float.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if start == b"version ":
                raise CheckpointError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` first")
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
            if length > min(size - 8, _MAX_HEADER):
                raise CheckpointError(f"{path} is not a safetensors file, or is cut short ({size} bytes)")
            text = file.read(length)
    except OSError as error:
        raise ModelNotFoundError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has a damaged safetensors header: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has a damaged safetensors header: not an object")
    return {
        name: _stored(path, name, entry, base=8 + length, end=size)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def take_tensor(tensors: Mapping[str, StoredTensor], name: str, shape: tuple[int, ...]) -> StoredTensor:
    """The tensor of that name, which must be there, with the shape that config.json tells."""
    stored = tensors.get(name)
    if stored is None:
        reason = " (config.json says that there are biases)" if name.endswith(".bias") else ""
        raise CheckpointError(f"the checkpoint lacks tensor {name!r}, of shape {list(shape)}{reason}")
    if stored.shape != shape:
        raise CheckpointError(
            f"{stored.path}: tensor {name!r} has shape {list(stored.shape)}, expected {list(shape)} by config.json"
        )
    return stored


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name appears twice")
    return result


def _stored(path: Path, name: str, entry: object, *, base: int, end: int) -> StoredTensor:
    damaged = CheckpointError(f"{path}: the header's entry for tensor {name!r} is damaged")
    if not isinstance(entry, dict):
        raise damaged
    dtype, shape, offsets = entry.get("dtype"), _sizes(entry.get("shape")), _sizes(entry.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise damaged
    if dtype not in _DTYPES:
        raise UnsupportedError(
            f"{path}: tensor {name!r} is stored as {dtype}; only F64, F32, F16 and BF16 can be converted "
            "(a quantised checkpoint must be converted from its original)"
        )
    first, last = offsets
    if last - first != math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize:
        raise damaged
    if base + last > end:
        raise CheckpointError(f"{path} is cut short: tensor {name!r} ends {base + last - end} bytes after the file")
    return StoredTensor(name, path, dtype, tuple(shape), base + first)


def _sizes(value: object) -> list[int] | None:
    if isinstance(value, list) and all(type(item) is int and 0 <= item < 2**62 for item in value):
        return value
    return None

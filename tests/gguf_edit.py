"""Rewrite a GGUF file with some of it changed: how the tests break a model on purpose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from numpy.typing import NDArray

_KINDS = {
    bool: GGUFValueType.BOOL,
    int: GGUFValueType.UINT32,
    float: GGUFValueType.FLOAT32,
    str: GGUFValueType.STRING,
}

TensorEdit = Callable[[NDArray[Any]], NDArray[Any] | None]  # None drops the tensor


def rewrite(
    source: Path,
    target: Path,
    *,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, TensorEdit] | None = None,
    added: Mapping[str, Any] | None = None,
) -> Path:
    """Copy ``source`` to ``target``, replacing metadata values (None drops the key) and editing tensors.

    Keys are those after the architecture's prefix, or whole; a key or tensor that is not in the file is an error, so
    that a test cannot break nothing. ``added`` are new keys, or replaced ones of another type. Tensors are numpy arrays
    in numpy's order of dimensions; edit no quantised ones.
    """
    reader = GGUFReader(source)
    arch = str(reader.fields["general.architecture"].contents())
    changes = {key if key in reader.fields else f"{arch}.{key}": value for key, value in (metadata or {}).items()}
    new = dict(added or {})
    edits = dict(tensors or {})
    writer = GGUFWriter(target, arch)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind, inner = field.types[0], field.types[-1] if len(field.types) > 1 else None
        value = field.contents()
        if key in new:
            continue
        if key in changes:
            value = changes.pop(key)
            if value is None:
                continue
            if isinstance(value, list) and kind is not GGUFValueType.ARRAY:
                kind, inner = GGUFValueType.ARRAY, GGUFValueType.BOOL
        writer.add_key_value(key, value, kind, inner)
    for key, value in new.items():
        writer.add_key_value(key, value, _KINDS[type(value)])
    for tensor in reader.tensors:
        data = np.array(tensor.data)
        if tensor.name in edits:
            edited = edits.pop(tensor.name)(data)
            if edited is None:
                continue
            data = np.ascontiguousarray(edited)
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    assert not changes, f"no such keys: {sorted(changes)}"
    assert not edits, f"no such tensors: {sorted(edits)}"
    finish(writer)
    return target


def copy_of(source: Path, target: Path) -> GGUFWriter:
    """A writer that holds all of ``source``: to add to, then :func:`finish`."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    return writer


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def swap_halves(data: NDArray[Any]) -> NDArray[Any]:
    """The fused gate and up, the wrong way round."""
    return np.concatenate(np.split(data, 2)[::-1])


def shift(data: NDArray[Any]) -> NDArray[Any]:
    """Every norm weight off by one place."""
    return np.roll(data, 1)

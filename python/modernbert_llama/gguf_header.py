"""Reads the header of a GGUF file: metadata and tensors. Bounded by the file's size, so that no damage hangs it."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from modernbert_llama.errors import ModelFileError, ModelNotFoundError

__all__ = ["GGUFHeader", "TensorInfo", "Value", "read_header"]

Scalar: TypeAlias = int | float | bool | str
Value: TypeAlias = Scalar | tuple[Scalar, ...]

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: ``shape`` in numpy's order (rows first), ``type`` as llama.cpp names it, and its size in bytes."""

    name: str
    shape: tuple[int, ...]
    type: str
    nbytes: int


@dataclass(frozen=True)
class GGUFHeader:
    path: Path
    size: int  # of the file, bytes
    version: int
    metadata: dict[str, Value]
    tensors: tuple[TensorInfo, ...]


def read_header(path: Path) -> GGUFHeader:
    """Reads the header. Raises ``ModelNotFoundError`` for an unreadable file, ``ModelFileError`` for a damaged one."""
    try:
        with path.open("rb") as file:
            return _Reader(path, file).header()
    except OSError as error:
        raise ModelNotFoundError(f"{path} cannot be read: {error.strerror or error}") from error


class _Reader:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = path.stat().st_size

    def header(self) -> GGUFHeader:
        if self.bytes(4) != b"GGUF":
            raise ModelFileError(f"{self.path} is not a GGUF file")
        version = self.number("I")
        if version not in (2, 3):
            raise self.damaged(f"GGUF version {version} is not known; known are 2 and 3")
        n_tensors, n_values = self.count(24), self.count(12)
        metadata: dict[str, Value] = {}
        for _ in range(n_values):
            key = self.string()
            if key in metadata:
                raise self.damaged(f"key {key!r} appears twice")
            metadata[key] = self.value(int(self.number("I")))
        entries = [self.tensor() for _ in range(n_tensors)]
        self.check_extent(metadata, entries)
        return GGUFHeader(self.path, self.size, int(version), metadata, tuple(info for info, _ in entries))

    def damaged(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.path} is damaged or cut short: {what}")

    def bytes(self, n: int) -> bytes:
        position = self.file.tell()
        if n > self.size - position:
            raise self.damaged(f"{n} bytes wanted at offset {position} of {self.size}")
        return self.file.read(n)

    def number(self, kind: str) -> int | float | bool:
        value: int | float | bool = struct.unpack("<" + kind, self.bytes(struct.calcsize("<" + kind)))[0]
        return value

    def count(self, least: int) -> int:
        """A number of items of at least ``least`` bytes each, which must fit into the file."""
        n = int(self.number("Q"))
        if n * least > self.size:
            raise self.damaged(f"a count of {n} at offset {self.file.tell() - 8}")
        return n

    def string(self) -> str:
        try:
            return self.bytes(self.count(1)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged(f"a string before offset {self.file.tell()} is not UTF-8") from error

    def value(self, kind: int) -> Value:
        if kind != _ARRAY:
            return self.scalar(kind)
        inner = int(self.number("I"))
        if inner == _STRING:
            return tuple(self.string() for _ in range(self.count(8)))
        if inner not in _FORMATS:
            raise self.damaged(f"array of unknown type {inner} at offset {self.file.tell() - 4}")
        width = struct.calcsize(_FORMATS[inner])
        n = self.count(width)
        return struct.unpack(f"<{n}{_FORMATS[inner]}", self.bytes(n * width))

    def scalar(self, kind: int) -> Scalar:
        if kind == _STRING:
            return self.string()
        if kind not in _FORMATS:
            raise self.damaged(f"value of unknown type {kind} at offset {self.file.tell() - 4}")
        return self.number(_FORMATS[kind])

    def tensor(self) -> tuple[TensorInfo, int]:
        name = self.string()
        n_dims = int(self.number("I"))
        if not 0 < n_dims <= 4:
            raise self.damaged(f"tensor {name!r} has {n_dims} dimensions")
        shape = tuple(int(self.number("Q")) for _ in range(n_dims))[::-1]
        kind, offset = int(self.number("I")), int(self.number("Q"))
        try:
            stored = GGMLQuantizationType(kind)
        except ValueError as error:
            raise self.damaged(f"tensor {name!r} has the unknown type {kind}") from error
        block, size = GGML_QUANT_SIZES[stored]
        if shape[-1] % block:
            raise self.damaged(f"tensor {name!r} has rows of {shape[-1]} in blocks of {block}")
        return TensorInfo(name, shape, stored.name.lower(), math.prod(shape) // block * size), offset

    def check_extent(self, metadata: dict[str, Value], entries: list[tuple[TensorInfo, int]]) -> None:
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0:
            raise self.damaged(f"general.alignment is {alignment!r}")
        start = -(-self.file.tell() // alignment) * alignment
        for info, offset in entries:
            if start + offset + info.nbytes > self.size:
                missing = start + offset + info.nbytes - self.size
                raise self.damaged(f"tensor {info.name!r} ends {missing} bytes after the file")

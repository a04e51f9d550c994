"""This project: ``modernbert_llama.Embedder``; int8 is q8_0 with ``per_channel``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from modernbert_llama import Embedder

from benchmarks.programs.base import Program

if TYPE_CHECKING:
    from pathlib import Path

    from modernbert_llama.convert import OutType
    from numpy.typing import NDArray

    from benchmarks.programs import ProgramSpec
    from benchmarks.shapes import Files
    from benchmarks.workloads import Workload

__all__ = ["PROGRAM"]


class Ours(Program):
    """Packs texts by itself, whatever it is given at once."""

    def __init__(self, spec: ProgramSpec, files: Files, n_threads: int) -> None:
        self._file = _file(spec, files)
        self._n_threads = n_threads
        self._per_channel = spec.type == "int8"
        self._model = self._load()

    def _load(self) -> Embedder:
        # builds of before per_channel can be compared as well
        if self._per_channel:
            return Embedder(self._file, n_threads=self._n_threads, per_channel=True)
        return Embedder(self._file, n_threads=self._n_threads)

    @classmethod
    def prepare(cls, spec: ProgramSpec, files: Files) -> None:
        _file(spec, files)

    def embed_ids(self, ids: Sequence[Sequence[int]], at_once: int) -> NDArray[np.float32]:
        parts = [self._model.embed_tokens(ids[i : i + at_once]) for i in range(0, len(ids), at_once)]
        return np.concatenate(parts)

    def embed_texts(self, texts: Sequence[str], at_once: int) -> NDArray[np.float32]:
        del at_once
        return self._model.embed(texts)

    def packings(self, workload: Workload) -> list[int]:
        return [workload.at_once or workload.rows]

    def rest(self) -> None:
        del self._model
        self._model = self._load()


def _file(spec: ProgramSpec, files: Files) -> Path:
    return files.gguf("q8_0" if spec.type == "int8" else cast("OutType", spec.type))


PROGRAM = Ours

"""This project's classes; int8 is q8_0 with ``per_channel``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

import modernbert_llama
import numpy as np

from benchmarks.programs.base import Program, VectorProgram

if TYPE_CHECKING:
    from pathlib import Path

    from modernbert_llama.convert import OutType
    from numpy.typing import NDArray

    from benchmarks.programs import ProgramSpec
    from benchmarks.shapes import Files
    from benchmarks.workloads import Workload

__all__ = ["PROGRAMS"]


class _Ours(Program):
    """Packs texts by itself, whatever it is given at once."""

    api: ClassVar[str]  # the class that is measured

    def __init__(self, spec: ProgramSpec, files: Files, n_threads: int) -> None:
        self._file = _file(spec, files)
        self._n_threads = n_threads
        self._per_channel = spec.type == "int8"
        self._model = self._load()

    def _load(self) -> Any:
        # builds of before per_channel, and of before other heads, can be compared as well
        options = {"per_channel": True} if self._per_channel else {}
        return getattr(modernbert_llama, self.api)(self._file, n_threads=self._n_threads, **options)

    @classmethod
    def prepare(cls, spec: ProgramSpec, files: Files) -> None:
        _file(spec, files)

    def packings(self, workload: Workload) -> list[int]:
        return [workload.at_once or workload.rows]

    def rest(self) -> None:
        del self._model
        self._model = self._load()


class _Embedder(_Ours, VectorProgram):
    api = "Embedder"

    def embed_ids(self, ids: Sequence[Sequence[int]], at_once: int) -> NDArray[np.float32]:
        parts = [self._model.embed_tokens(ids[i : i + at_once]) for i in range(0, len(ids), at_once)]
        return np.concatenate(parts)

    def embed_texts(self, texts: Sequence[str], at_once: int) -> NDArray[np.float32]:
        del at_once
        vectors: NDArray[np.float32] = self._model.embed(texts)
        return vectors


class _Reranker(_Ours):
    api = "Reranker"

    def embed_texts(self, texts: Sequence[str], at_once: int) -> NDArray[np.float32]:
        del at_once
        scores = self._model.score([(texts[0], text) for text in texts[1:]], raw=True)
        return np.asarray(scores, np.float32).reshape(-1, 1)


class _SparseEmbedder(_Ours):
    api = "SparseEmbedder"

    def embed_texts(self, texts: Sequence[str], at_once: int) -> NDArray[np.float32]:
        del at_once
        vectors: NDArray[np.float32] = self._model.embed(texts).to_dense()
        return vectors


class _MultiVectorEmbedder(_Ours):
    api = "MultiVectorEmbedder"

    def embed_texts(self, texts: Sequence[str], at_once: int) -> NDArray[np.float32]:
        del at_once
        vectors: NDArray[np.float32] = self._model.embed_documents(texts, packed=True)[0]
        return vectors


def _file(spec: ProgramSpec, files: Files) -> Path:
    return files.gguf("q8_0" if spec.type == "int8" else cast("OutType", spec.type))


PROGRAMS: Final = {
    "embed": _Embedder,
    "rerank": _Reranker,
    "sparse": _SparseEmbedder,
    "multi-vector": _MultiVectorEmbedder,
}

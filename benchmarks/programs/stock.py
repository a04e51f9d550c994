"""llama-cpp-python as it is released: batches through its C API, texts through ``Llama.embed``."""

from __future__ import annotations

import ctypes
import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from benchmarks.programs.base import VectorProgram
from benchmarks.programs.versions import STOCK_VERSION

if TYPE_CHECKING:
    from modernbert_llama.convert import OutType
    from numpy.typing import NDArray

    from benchmarks.programs import ProgramSpec
    from benchmarks.shapes import Files
    from benchmarks.workloads import Workload

__all__ = ["PROGRAMS"]

_FOLDER: Final = Path(__file__).parents[2] / "build" / f"stock-{STOCK_VERSION}"


def install() -> Path:
    """A folder with llama-cpp-python as its own build makes it, installed there the first time."""
    if not (_FOLDER / "llama_cpp").is_dir():
        target = _FOLDER.with_name(f"partial-{os.getpid()}-{_FOLDER.name}")
        pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(target)]
        subprocess.run([*pip, f"llama-cpp-python=={STOCK_VERSION}"], check=True)
        target.rename(_FOLDER)
    return _FOLDER


sys.path.append(str(install()))  # last: the environment's own numpy stays
llama_cpp: Any = importlib.import_module("llama_cpp")


class Stock(VectorProgram):
    """Flash attention on; several sequences in one ``llama_encode``; the context as large as the call."""

    def __init__(self, spec: ProgramSpec, files: Files, n_threads: int) -> None:
        self._api: Any = llama_cpp.llama_cpp
        self._file = files.gguf(cast("OutType", spec.type))
        self._n_threads = n_threads
        self._silence = self._api.llama_log_callback(lambda *_: None)
        self._api.llama_log_set(self._silence, None)
        self._api.llama_backend_init()
        params = self._api.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = self._api.llama_model_load_from_file(os.fsencode(self._file), params)
        if not self._model:
            raise RuntimeError(f"{self._file}: llama.cpp could not load it")
        self._width: int = self._api.llama_model_n_embd(self._model)
        self._context: Any = None
        self._size = (0, 0)
        self._llama: Any = None

    @classmethod
    def prepare(cls, spec: ProgramSpec, files: Files) -> None:
        files.gguf(cast("OutType", spec.type))

    def embed_ids(self, ids: Sequence[Sequence[int]], at_once: int) -> NDArray[np.float32]:
        return np.concatenate([self._encode(ids[i : i + at_once]) for i in range(0, len(ids), at_once)])

    def embed_texts(self, texts: Sequence[str], at_once: int) -> NDArray[np.float32]:
        """All texts in one call of ``Llama.embed``, which packs up to 512 tokens; or a call a text."""
        if self._llama is None:
            self._llama = self._open_llama(texts)
        if at_once > 1:
            return np.array(self._llama.embed(list(texts)), np.float32)
        return np.array([self._llama.embed(text) for text in texts], np.float32)

    def packings(self, workload: Workload) -> list[int]:
        return [workload.rows, 1] if workload.kind == "texts" else workload.packings()

    def rest(self) -> None:
        if self._context is not None:
            self._api.llama_free(self._context)
        self._context = None

    def _open_llama(self, texts: Sequence[str]) -> Any:
        options: dict[str, Any] = {
            "model_path": str(self._file),
            "embedding": True,
            "n_threads": self._n_threads,
            "n_threads_batch": self._n_threads,
            "flash_attn": True,
            "verbose": False,
        }
        llama = llama_cpp.Llama(**options, n_ctx=512, n_batch=512, n_ubatch=512)
        longest = max(len(llama.tokenize(text.encode())) for text in texts)
        if longest > 512:  # it would cut the texts
            llama = llama_cpp.Llama(**options, n_ctx=longest, n_batch=longest, n_ubatch=longest)
        # it silences itself in its own calls only
        self._api.llama_log_set(self._silence, None)
        return llama

    def _reserve(self, n_tokens: int, n_seqs: int) -> None:
        if self._context is not None and self._size == (n_tokens, n_seqs):
            return
        self.rest()
        params = self._api.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = n_tokens
        params.n_seq_max = n_seqs
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = self._n_threads
        params.embeddings = True
        params.no_perf = True
        params.flash_attn_type = self._api.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self._context = self._api.llama_init_from_model(self._model, params)
        if not self._context:
            self._context = None
            raise MemoryError(f"no context of {n_tokens} tokens")
        self._size = (n_tokens, n_seqs)

    def _encode(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        lengths = [len(row) for row in rows]
        n_tokens = sum(lengths)
        self._reserve(n_tokens, len(rows))
        batch = self._api.llama_batch_init(n_tokens, 0, 1)
        try:
            _fill(batch.token, np.concatenate(rows), np.int32)
            _fill(batch.pos, np.concatenate([np.arange(n) for n in lengths]), np.int32)
            _fill(batch.n_seq_id, np.ones(n_tokens), np.int32)
            _fill(batch.logits, np.ones(n_tokens), np.int8)
            for i, sequence in enumerate(np.repeat(np.arange(len(rows)), lengths).tolist()):
                batch.seq_id[i][0] = sequence
            batch.n_tokens = n_tokens
            code = self._api.llama_encode(self._context, batch)
        finally:
            self._api.llama_batch_free(batch)
        if code != 0:
            raise RuntimeError(f"llama_encode returned {code}")
        vectors = [self._api.llama_get_embeddings_seq(self._context, i)[: self._width] for i in range(len(rows))]
        return np.array(vectors, np.float32)


def _fill(target: Any, values: NDArray[Any], dtype: type[np.integer[Any]]) -> None:
    data = np.ascontiguousarray(values, dtype)
    ctypes.memmove(target, data.ctypes.data, data.nbytes)


PROGRAMS: Final = {"embed": Stock}

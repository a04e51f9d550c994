"""transformers with its SDPA attention; texts, and other heads, through sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder

from benchmarks.programs.base import PaddedProgram, Program

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.programs import ProgramSpec
    from benchmarks.shapes import Files

__all__ = ["PROGRAMS"]


class _Transformers(Program):
    """A class of sentence-transformers."""

    api: ClassVar[type]

    def __init__(self, spec: ProgramSpec, files: Files, n_threads: int) -> None:
        torch.set_num_threads(n_threads)
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[spec.type]
        self._pooling = files.spec.pooling
        self._pipeline: Any = self.api(
            str(files.checkpoint), device="cpu", model_kwargs={"dtype": dtype, "attn_implementation": "sdpa"}
        )

    @classmethod
    def prepare(cls, spec: ProgramSpec, files: Files) -> None:
        del spec
        _ = files.checkpoint


class _Embedder(_Transformers, PaddedProgram):
    """One model for both: sentence-transformers holds that of transformers."""

    api = SentenceTransformer

    def forward(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Without a mask, which is all ones here: so transformers takes its fastest way."""
        del mask
        with torch.inference_mode():
            hidden = self._pipeline[0].auto_model(input_ids=torch.from_numpy(ids)).last_hidden_state.float()
        pooled = hidden.mean(dim=1) if self._pooling == "mean" else hidden[:, 0]
        result: NDArray[np.float32] = pooled.numpy()
        return result

    def embed_texts(self, texts: Sequence[str], at_once: int) -> NDArray[np.float32]:
        return np.asarray(self._pipeline.encode(list(texts), batch_size=at_once, show_progress_bar=False), np.float32)


class _Reranker(_Transformers):
    api = CrossEncoder

    def embed_texts(self, texts: Sequence[str], at_once: int) -> NDArray[np.float32]:
        pairs = [(texts[0], text) for text in texts[1:]]
        options = {"batch_size": at_once, "show_progress_bar": False, "convert_to_tensor": True}
        logits: NDArray[np.float32] = (
            self._pipeline.predict(pairs, activation_fn=torch.nn.Identity(), **options).float().numpy()
        )
        return logits.reshape(-1, 1)


class _SparseEmbedder(_Transformers):
    api = SparseEncoder

    def embed_texts(self, texts: Sequence[str], at_once: int) -> NDArray[np.float32]:
        found = self._pipeline.encode_document(list(texts), batch_size=at_once, show_progress_bar=False)
        vectors: NDArray[np.float32] = found.to_dense().float().numpy()
        return vectors


class _MultiVectorEmbedder(_Transformers):
    api = MultiVectorEncoder

    def embed_texts(self, texts: Sequence[str], at_once: int) -> NDArray[np.float32]:
        found = self._pipeline.encode_document(list(texts), batch_size=at_once, show_progress_bar=False)
        vectors: NDArray[np.float32] = torch.cat(found).float().numpy()
        return vectors


PROGRAMS: Final = {
    "embed": _Embedder,
    "rerank": _Reranker,
    "sparse": _SparseEmbedder,
    "multi-vector": _MultiVectorEmbedder,
}

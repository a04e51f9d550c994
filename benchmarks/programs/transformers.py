"""transformers with its SDPA attention; texts through sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from benchmarks.programs.base import PaddedProgram

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.programs import ProgramSpec
    from benchmarks.shapes import Files

__all__ = ["PROGRAM"]


class Transformers(PaddedProgram):
    """One model for both: sentence-transformers holds that of transformers."""

    def __init__(self, spec: ProgramSpec, files: Files, n_threads: int) -> None:
        torch.set_num_threads(n_threads)
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[spec.type]
        self._pooling = files.spec.pooling
        self._pipeline = SentenceTransformer(
            str(files.checkpoint), device="cpu", model_kwargs={"dtype": dtype, "attn_implementation": "sdpa"}
        )
        self._model = self._pipeline[0].auto_model

    @classmethod
    def prepare(cls, spec: ProgramSpec, files: Files) -> None:
        del spec
        _ = files.checkpoint

    def forward(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Without a mask, which is all ones here: so transformers takes its fastest way."""
        del mask
        with torch.inference_mode():
            hidden = self._model(input_ids=torch.from_numpy(ids)).last_hidden_state.float()
        pooled = hidden.mean(dim=1) if self._pooling == "mean" else hidden[:, 0]
        result: NDArray[np.float32] = pooled.numpy()
        return result

    def embed_texts(self, texts: Sequence[str], at_once: int) -> NDArray[np.float32]:
        return np.asarray(self._pipeline.encode(list(texts), batch_size=at_once, show_progress_bar=False), np.float32)


PROGRAM = Transformers

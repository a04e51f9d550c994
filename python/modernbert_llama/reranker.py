"""The public API: :class:`Reranker`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from modernbert_llama.errors import InputError
from modernbert_llama.model import text_list
from modernbert_llama.sequence_head import activate
from modernbert_llama.sequence_model import SequenceModel, check_top_k
from modernbert_llama.tokenizer import check_pair, check_text

__all__ = ["RankedDocument", "Reranker"]


class _Ranked(TypedDict):
    corpus_id: int
    score: float


class RankedDocument(_Ranked, total=False):
    """One document of a ranking: its index, its score, and its text where asked for."""

    text: str


class Reranker(SequenceModel):
    """A ModernBERT cross-encoder: how well a document answers a query, from both together.

    Args:
        model: a GGUF file, a local Hugging Face folder, or a hub id. Folders and ids are converted once, into a cache.
        n_threads: threads of one forward pass; by default the physical cores that the process may use.
        n_gpu_layers: layers to offload, in a build with a GPU backend.
        dtype: type of the weights when a folder or id is converted: "f32" (default), "f16", "bf16" or "q8_0".
        revision: branch, tag or commit of a hub id.
        cache_dir: where conversions are kept.
        per_channel: faster and less exact products of q8_0 weights, as in :class:`Embedder`.

    Safe to use from several threads; they take turns on the model.

    Raises:
        ModelNotFoundError: no such file, folder or id.
        ModelFileError: a damaged or foreign GGUF file.
        CheckpointError: a checkpoint that cannot be converted.
        InputError: an argument that cannot be used, or a model of another kind; the message says which class is for it.
        OutOfMemoryError: the model does not fit.
    """

    def score(
        self,
        pairs: Iterable[Sequence[str]],
        *,
        raw: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate: bool = True,
        max_length: int | None = None,
        show_progress: bool | None = None,
    ) -> NDArray[np.float32]:
        """Score pairs of texts, in any number and mix of lengths.

        Args:
            pairs: n pairs (query, document).
            raw: the logits, in place of what the model's own activation makes of them: that of the checkpoint, or else
                the sigmoid for one label and none for several, as in sentence-transformers.
            prompt_name: the model's prompt to put before each query; by default the model's default prompt.
            prompt: a prompt of your own, in place of a named one.
            truncate: cut pairs that are too long, the longer text first, as Hugging Face does; otherwise raise.
            max_length: a limit in tokens below the model's own.
            show_progress: a progress bar on standard error.

        Returns:
            float32 of shape (n,), or (n, labels) for a model with several labels.

        Raises:
            InputError: an item that is not two strings or has a lone surrogate; an unknown prompt; a bad limit.
            TooLongError: a pair over the limit with ``truncate=False``.
        """
        if isinstance(pairs, (str, bytes, bytearray, memoryview)) or not isinstance(pairs, Iterable):
            raise InputError(f"pairs is {type(pairs).__name__}, expected a list of pairs of str")
        checked = [check_pair(pair, index) for index, pair in enumerate(pairs)]
        logits = self._logits(
            checked,
            prompt_name=prompt_name,
            prompt=prompt,
            truncate=truncate,
            max_length=max_length,
            show_progress=show_progress,
        )
        scores = logits if raw else self._activated(logits)
        return (scores[:, 0] if len(self.labels) == 1 else scores).astype(np.float32)

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_k: int | None = None,
        return_documents: bool = False,
        raw: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate: bool = True,
        max_length: int | None = None,
        show_progress: bool | None = None,
    ) -> list[RankedDocument]:
        """Order documents by how well they answer a query, best first.

        Args:
            query: the query.
            documents: the documents.
            top_k: only the best so many.
            return_documents: put each document into its result, as "text".

        The other arguments are those of :meth:`score`.

        Returns:
            For each document {"corpus_id": its index, "score": its score}, as sentence-transformers' CrossEncoder.rank.
            Documents of one score stay in the order given.

        Raises:
            InputError: as :meth:`score`, and a model with several labels.
            TooLongError: a pair over the limit with ``truncate=False``.
        """
        check_top_k(top_k)
        if len(self.labels) != 1:
            raise InputError(f"rank needs a model with one label, and this one has {len(self.labels)}: use score")
        if not isinstance(query, str):
            raise InputError(f"query is {type(query).__name__}, expected str")
        try:
            check_text(query, 0)
        except InputError as error:
            raise InputError(f"query: {error}") from None
        texts, single = text_list(documents)
        if single:
            raise InputError("documents is one string, expected a list of str")
        pairs = [(query, check_text(text, index)) for index, text in enumerate(texts)]
        logits = self._logits(
            pairs,
            prompt_name=prompt_name,
            prompt=prompt,
            truncate=truncate,
            max_length=max_length,
            show_progress=show_progress,
        )
        scores = logits if raw else self._activated(logits)
        results: list[RankedDocument] = []
        for index in np.argsort(-scores[:, 0], kind="stable")[:top_k].tolist():
            result: RankedDocument = {"corpus_id": index, "score": float(np.float32(scores[index, 0]))}
            if return_documents:
                result["text"] = texts[index]
            results.append(result)
        return results

    def _activated(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        default = "Sigmoid" if len(self.labels) == 1 else "Identity"
        return activate(self._info.score_activation or default, logits) if len(logits) else logits

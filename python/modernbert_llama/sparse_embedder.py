"""The public API: :class:`SparseEmbedder`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, overload

import numpy as np
from numpy.typing import NDArray

from modernbert_llama import keys
from modernbert_llama.errors import InputError
from modernbert_llama.model import HeadModel, choose_prompt, progress_bar, text_list
from modernbert_llama.sparse_embeddings import SparseEmbeddings, SparseVector, sparse_similarity

__all__ = ["SparseEmbedder"]


class SparseEmbedder(HeadModel):
    """A ModernBERT sparse embedder (SPLADE): a weight for each token of the vocabulary, most of them zero.

    A token's weight is the maximum or the sum, over all tokens of the text (the special ones too), of log(1 + relu(its
    logit)): Formal et al., "SPLADE v2", 2021, as sentence-transformers' SparseEncoder computes it. A
    ``ModernBertForMaskedLM`` without modules of sentence-transformers is pooled by the maximum.

    Args:
        model: a GGUF file, a local Hugging Face folder, or a hub id. Folders and ids are converted once, into a cache.
        n_threads: threads of one forward pass; by default the physical cores that the process may use.
        n_gpu_layers: layers to offload, in a build with a GPU backend; the head stays on the CPU.
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

    _TASKS: ClassVar[frozenset[keys.Task]] = frozenset({"fill-mask", "sparse-embedding"})

    def _set_up(self) -> None:
        self._dim = self._engine.load_head(maxima=self._info.splade_pooling == "max")

    @property
    def dim(self) -> int:
        """Width of an embedding: the size of the vocabulary."""
        return self._dim

    @property
    def max_active_dims(self) -> int | None:
        """How many weights of a text the model keeps, or None for all."""
        return self._info.max_active_dims

    def __repr__(self) -> str:
        return f"SparseEmbedder(dim={self.dim}, max_length={self.max_length}, pooling={self._info.splade_pooling!r})"

    @overload
    def embed(  # type: ignore[overload-overlap]
        self,
        texts: str,
        *,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        max_active_dims: int | None = ...,
        truncate: bool = ...,
        max_length: int | None = ...,
        show_progress: bool | None = ...,
    ) -> SparseVector: ...

    @overload
    def embed(
        self,
        texts: Sequence[str],
        *,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        max_active_dims: int | None = ...,
        truncate: bool = ...,
        max_length: int | None = ...,
        show_progress: bool | None = ...,
    ) -> SparseEmbeddings: ...

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        max_active_dims: int | None = None,
        truncate: bool = True,
        max_length: int | None = None,
        show_progress: bool | None = None,
    ) -> SparseVector | SparseEmbeddings:
        """Embed one text or several.

        Args:
            texts: a string, or a sequence of n strings.
            prompt_name: the model's prompt to put before each text; by default the model's default prompt. "query" and
                "document" are known to every model, and empty where it has none.
            prompt: a prompt of your own, in place of a named one.
            max_active_dims: keep only so many of the largest weights of each text, of equal ones the first; by default
                as the model says.
            truncate: cut texts that are too long, keeping the closing special token; otherwise raise.
            max_length: a limit in tokens below the model's own.
            show_progress: a progress bar on standard error.

        Returns:
            A :class:`SparseVector` for a string, :class:`SparseEmbeddings` of n rows for a sequence.

        Raises:
            InputError: an item that is not a string or has a lone surrogate; an unknown prompt; a bad limit.
            TooLongError: a text over the limit with ``truncate=False``.
        """
        items, single = text_list(texts)
        top_k = self.max_active_dims if max_active_dims is None else max_active_dims
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise InputError(f"max_active_dims is {top_k!r}, expected None or at least 1")
        before = choose_prompt(self._info, prompt_name, prompt)
        ids = self._token_ids(items, before, truncate, self._limit(max_length))
        with progress_bar(len(ids), show_progress) as advance:
            indptr, indices, data = self._engine.head_sparse(
                ids,
                self._info.splade_pooling,
                self._info.splade_activation == "log1p_relu",
                min(top_k or 0, self.dim),
                advance,
            )
        result = SparseEmbeddings(indptr, indices, data, self.dim)
        return result[0] if single else result

    @overload
    def decode(self, embeddings: SparseVector, top_k: int | None = ...) -> list[tuple[str, float]]: ...

    @overload
    def decode(self, embeddings: SparseEmbeddings, top_k: int | None = ...) -> list[list[tuple[str, float]]]: ...

    def decode(
        self, embeddings: SparseVector | SparseEmbeddings, top_k: int | None = None
    ) -> list[tuple[str, float]] | list[list[tuple[str, float]]]:
        """The tokens, as the vocabulary spells them, and their weights, largest first; ``top_k``: only so many."""
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise InputError(f"top_k is {top_k!r}, expected None or at least 1")
        if isinstance(embeddings, SparseEmbeddings):
            return [self._decode(row, top_k) for row in embeddings]
        return self._decode(embeddings, top_k)

    def similarity(
        self, embeddings1: SparseVector | SparseEmbeddings, embeddings2: SparseVector | SparseEmbeddings
    ) -> NDArray[np.float32]:
        """The model's own similarity of every pair: float32 of shape (n, m), larger is nearer; one vector is one row.

        The dot product unless the checkpoint says cosine, euclidean or manhattan; of the last two the negated distance.
        """
        # a masked language model alone says nothing of similarity
        name = self._info.similarity if self._info.task == "sparse-embedding" else "dot"
        return sparse_similarity(name, self._as_rows(embeddings1), self._as_rows(embeddings2))

    def _decode(self, vector: SparseVector, top_k: int | None) -> list[tuple[str, float]]:
        order = np.argsort(-vector.weights, kind="stable")[:top_k]
        return [(self._tokenizer.token(int(vector.indices[i])), float(vector.weights[i])) for i in order]

    def _as_rows(self, embeddings: SparseVector | SparseEmbeddings) -> SparseEmbeddings:
        if isinstance(embeddings, SparseEmbeddings):
            return embeddings
        indices, weights = embeddings
        return SparseEmbeddings(np.array([0, len(indices)], np.int64), indices, weights, self.dim)

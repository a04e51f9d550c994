"""Late interaction (ColBERT): a vector a token of queries and documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from modernbert_llama import keys
from modernbert_llama.errors import InputError, ModelFileError
from modernbert_llama.late_scores import MultiVectors, maxsim, pack, token_counts, unpack
from modernbert_llama.model import HeadModel, choose_prompt, progress_bar, text_list
from modernbert_llama.reranker import RankedDocument
from modernbert_llama.roles import Role
from modernbert_llama.sequence_model import check_top_k
from modernbert_llama.steps import width_after
from modernbert_llama.tokenizer import check_text, encode_within

__all__ = ["MultiVectorEmbedder"]

_BLOCK = 16384  # tokens whose hidden states are in memory at once


class MultiVectorEmbedder(HeadModel):
    """A ModernBERT late-interaction model, as PyLate, ColBERT's own code or sentence-transformers saved it.

    Args:
        model: a GGUF file, a local folder, or a hub id. Folders and ids are converted once, into a cache.
        n_threads: threads of one forward pass; by default the physical cores that the process may use.
        n_gpu_layers: layers to offload, in a build with a GPU backend.
        dtype: type of the weights when a folder or id is converted: "f32" (default), "f16", "bf16" or "q8_0".
        revision: branch, tag or commit of a hub id.
        cache_dir: where conversions are kept.
        per_channel: faster and less exact products of q8_0 weights, as in :class:`Embedder`.

    Safe to use from several threads; they take turns on the model. Raises what :class:`Embedder` does.
    """

    _TASKS = frozenset({"multi-vector"})

    def _set_up(self) -> None:
        if not self._info.roles:
            raise ModelFileError(f"{self._path}: key {keys.MULTI_VECTOR!r} is missing: convert the model anew")
        self._width = self._engine.n_embd
        for step in self._info.steps:
            self._width = width_after(step, self._width)

    @property
    def dim(self) -> int:
        """Width of a token's vector."""
        return self._width

    @property
    def query_length(self) -> int:
        """Tokens that a query is cut to, the special ones and the marker included."""
        return self._role("query").limit(self.max_length)

    @property
    def document_length(self) -> int:
        """Tokens that a document is cut to, the special ones and the marker included."""
        return self._role("document").limit(self.max_length)

    def __repr__(self) -> str:
        return (
            f"MultiVectorEmbedder(dim={self.dim}, query_length={self.query_length}, "
            f"document_length={self.document_length})"
        )

    @overload
    def embed_queries(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self,
        texts: str,
        *,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        packed: Literal[False] = ...,
        truncate: bool = ...,
        show_progress: bool | None = ...,
    ) -> NDArray[np.float32]: ...
    @overload
    def embed_queries(
        self,
        texts: Sequence[str],
        *,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        packed: Literal[False] = ...,
        truncate: bool = ...,
        show_progress: bool | None = ...,
    ) -> list[NDArray[np.float32]]: ...
    @overload
    def embed_queries(
        self,
        texts: str | Sequence[str],
        *,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        packed: Literal[True],
        truncate: bool = ...,
        show_progress: bool | None = ...,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...
    def embed_queries(
        self,
        texts: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        packed: bool = False,
        truncate: bool = True,
        show_progress: bool | None = None,
    ) -> NDArray[np.float32] | list[NDArray[np.float32]] | tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Embed one query or several, filled up with the model's expansion tokens where it has them.

        Args:
            texts: a string, or a sequence of n strings.
            prompt_name: the model's prompt to put before each text; by default that of the name "query", if it has one.
            prompt: a prompt of your own, in place of a named one.
            packed: one array for all texts.
            truncate: cut texts that are too long, keeping the closing special token; otherwise raise.
            show_progress: a progress bar on standard error.

        Returns:
            float32 of shape (n_tokens, dim) for a string, a list of n of these for a sequence. ``packed``: an array
            (sum of n_tokens, dim) and int64 offsets (n + 1,), text i being ``array[offsets[i]:offsets[i + 1]]``.

        Raises:
            InputError: an item that is not a string or has a lone surrogate; an unknown prompt.
            TooLongError: a text over the limit with ``truncate=False``.
        """
        return self._embed("query", texts, prompt_name, prompt, packed, truncate, show_progress)

    @overload
    def embed_documents(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self,
        texts: str,
        *,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        packed: Literal[False] = ...,
        truncate: bool = ...,
        show_progress: bool | None = ...,
    ) -> NDArray[np.float32]: ...
    @overload
    def embed_documents(
        self,
        texts: Sequence[str],
        *,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        packed: Literal[False] = ...,
        truncate: bool = ...,
        show_progress: bool | None = ...,
    ) -> list[NDArray[np.float32]]: ...
    @overload
    def embed_documents(
        self,
        texts: str | Sequence[str],
        *,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        packed: Literal[True],
        truncate: bool = ...,
        show_progress: bool | None = ...,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]: ...
    def embed_documents(
        self,
        texts: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        packed: bool = False,
        truncate: bool = True,
        show_progress: bool | None = None,
    ) -> NDArray[np.float32] | list[NDArray[np.float32]] | tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Embed one document or several, without the vectors of the tokens on the model's skip list.

        The default prompt is that of the name "document"; all else is as in :meth:`embed_queries`.
        """
        return self._embed("document", texts, prompt_name, prompt, packed, truncate, show_progress)

    def similarity(self, queries: MultiVectors, documents: MultiVectors) -> NDArray[np.float32]:
        """:func:`~modernbert_llama.maxsim`, divided by the number of the query's vectors where the model says so."""
        scores = maxsim(queries, documents)
        if self._info.similarity == "meanmaxsim":
            scores /= np.maximum(token_counts(queries), 1)[:, None].astype(np.float32)
        return scores

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_k: int | None = None,
        return_documents: bool = False,
    ) -> list[RankedDocument]:
        """Order documents by their score against a query, best first.

        Args:
            query: the query.
            documents: the documents.
            top_k: only the best so many.
            return_documents: put each document into its result, as "text".

        Returns:
            For each document {"corpus_id": its index, "score": its score}, as :meth:`Reranker.rank` does.
        """
        check_top_k(top_k)
        if not isinstance(query, str):
            raise InputError(f"query is {type(query).__name__}, expected str")
        texts, single = text_list(documents)
        if single:
            raise InputError("documents is one string, expected a list of str")
        scores = self.similarity([self.embed_queries(query)], self.embed_documents(texts, packed=True))[0]
        results: list[RankedDocument] = []
        for index in np.argsort(-scores, kind="stable")[:top_k].tolist():
            result: RankedDocument = {"corpus_id": index, "score": float(scores[index])}
            if return_documents:
                result["text"] = texts[index]
            results.append(result)
        return results

    def _embed(
        self,
        name: Literal["query", "document"],
        texts: str | Sequence[str],
        prompt_name: str | None,
        prompt: str | None,
        packed: bool,
        truncate: bool,
        show_progress: bool | None,
    ) -> NDArray[np.float32] | list[NDArray[np.float32]] | tuple[NDArray[np.float32], NDArray[np.int64]]:
        items, single = text_list(texts)
        before = choose_prompt(self._info, name if prompt is None and prompt_name is None else prompt_name, prompt)
        role = self._role(name)
        ids, n_unseen = self._role_ids(role, items, before, truncate)
        skip = np.array(role.skip, np.int64)
        found: list[NDArray[np.float32]] = []
        with progress_bar(len(ids), show_progress) as advance:
            for start, stop in _blocks([len(item) for item in ids]):
                report = _from(advance, start)
                rows = self._engine.embed(ids[start:stop], "none", report, 0, n_unseen[start:stop])
                kept = ~np.isin(np.concatenate(ids[start:stop]), skip)
                vectors = self._finish(rows[kept] if len(skip) else rows)
                ends = np.cumsum([len(item) for item in ids[start:stop]])
                offsets = np.concatenate(([0], np.cumsum(kept)[ends - 1]))
                found += unpack(vectors, offsets)
        if packed:
            return pack(found, self.dim)
        return found[0] if single else found

    def _role(self, name: Literal["query", "document"]) -> Role:
        return self._info.roles[name]

    def _role_ids(self, role: Role, texts: list[str], prompt: str, truncate: bool) -> tuple[list[list[int]], list[int]]:
        """The ids of texts with what the role adds, and how many at the end of each nothing attends to."""
        checked = [prompt + check_text(text, i) for i, text in enumerate(texts)]
        if role.strip:
            checked = [text.strip() for text in checked]
        limit = role.limit(self.max_length)
        ids, n_over = encode_within(self._tokenizer, checked, limit - (role.marker is not None), truncate)
        self._report_truncation(n_over, limit, stacklevel=5)
        filled = [role.expanded(role.with_marker(item), self.max_length) for item in ids]
        n_unseen = [n for _, n in filled]
        return [item for item, _ in filled], n_unseen if any(n_unseen) else []

    def _finish(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """The steps behind the encoder, and length 1 where the model says so; (n, dim)."""
        if not self._info.steps and not self._info.normalize:
            return rows
        exact = rows.astype(np.float64)
        for step in self._info.steps:
            exact = step(exact)
        if self._info.normalize:
            exact /= np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-12)
        return exact.astype(np.float32)


def _from(advance: Callable[[int], None], start: int) -> Callable[[int], None]:
    return lambda done: advance(start + done)


def _blocks(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Runs of texts of about ``_BLOCK`` tokens together."""
    start = n_tokens = 0
    for i, length in enumerate(lengths):
        n_tokens += length
        if n_tokens >= _BLOCK or i + 1 == len(lengths):
            yield start, i + 1
            start, n_tokens = i + 1, 0

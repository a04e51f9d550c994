"""The public API: :class:`Embedder` and :func:`embed`."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modernbert_llama import keys
from modernbert_llama.errors import InputError, ModelFileError
from modernbert_llama.model import DType, Model, choose_prompt, progress_bar, text_list
from modernbert_llama.precision import Precision, check_precision, quantize_embeddings
from modernbert_llama.similarity import similarity
from modernbert_llama.steps import Dense, LayerNorm, width_after

__all__ = ["Embedder", "embed"]

Pooling = Literal["cls", "mean", "max", "mean_sqrt_len", "weightedmean", "last"]


class Embedder(Model):
    """A ModernBERT embedding model.

    Args:
        model: a GGUF file, a local Hugging Face folder, or a hub id. Folders and ids are converted once, into a cache.
        n_threads: threads of one forward pass; by default the physical cores that the process may use.
        n_gpu_layers: layers to offload, in a build with a GPU backend.
        pooling: "cls", "mean", "max", "mean_sqrt_len", "weightedmean" or "last" in place of the model's own, or
            several, whose vectors are put one after the other.
        tokenizer: a ``tokenizer.json`` in place of the one in the file, or "llama" for llama.cpp's own tokenizer.
        dtype: type of the weights when a folder or id is converted: "f32" (default), "f16", "bf16" or "q8_0".
        revision: branch, tag or commit of a hub id.
        cache_dir: where conversions are kept.
        per_channel: multiply q8_0 weights with one scale a row and one a token, not one per 32 values: faster and less
            exact (README has both figures). Folders and ids are then converted to "q8_0". On processors without a
            kernel for it the weights are multiplied as usual.

    Safe to use from several threads; they take turns on the model.

    Raises:
        ModelNotFoundError: no such file, folder or id.
        ModelFileError: a damaged or foreign GGUF file.
        CheckpointError: a checkpoint that cannot be converted.
        InputError: an argument that cannot be used.
        OutOfMemoryError: the model does not fit.
    """

    _TASKS: ClassVar[frozenset[keys.Task]] = frozenset({"embedding", "fill-mask"})

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        n_threads: int | None = None,
        n_gpu_layers: int = 0,
        pooling: Pooling | Sequence[Pooling] | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
        dtype: DType | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        per_channel: bool = False,
    ) -> None:
        super().__init__(
            model,
            n_threads=n_threads,
            n_gpu_layers=n_gpu_layers,
            tokenizer=tokenizer,
            dtype=dtype,
            revision=revision,
            cache_dir=cache_dir,
            per_channel=per_channel,
        )
        self._pooling = _choose_pooling(self._path, pooling, self._info.pooling)
        self._width = self._engine.n_embd * len(self._pooling.split("+"))  # of the output
        for step in self._info.steps:
            inputs = step.weight.shape[-1] if isinstance(step, (Dense, LayerNorm)) else self._width
            if inputs != self._width:
                raise InputError(
                    f"{self._path}: {type(step).__name__} takes {inputs} values, pooling {self._pooling!r} gives "
                    f"{self._width}"
                )
            self._width = width_after(step, self._width)

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return min(self._info.truncate_dim or self._width, self._width)

    @property
    def pooling(self) -> str:
        """ "cls", "mean", "max", "mean_sqrt_len", "weightedmean" or "last"; several are joined by "+"."""
        return self._pooling

    def __repr__(self) -> str:
        return f"Embedder(dim={self.dim}, max_length={self.max_length}, pooling={self.pooling!r})"

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        normalize: bool | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        truncate: bool = True,
        max_length: int | None = None,
        precision: Precision = "float32",
        show_progress: bool | None = None,
    ) -> NDArray[Any]:
        """Embed one text or several.

        Args:
            texts: a string, or a sequence of n strings.
            normalize: scale each vector to length 1; by default as the model's pipeline does.
            prompt_name: the model's prompt to put before each text; by default the model's default prompt. "query" and
                "document" are known to every model, and empty where it has none.
            prompt: a prompt of your own, in place of a named one.
            dimensions: keep only the first so many values of each vector (Matryoshka), before normalising.
            truncate: cut texts that are too long, keeping the closing special token; otherwise raise.
            max_length: a limit in tokens below the model's own.
            precision: "float32"; "int8" or "uint8", 256 steps over the range of each dimension in this call; "binary"
                or "ubinary", the signs, eight to an int8 or uint8. See :func:`~modernbert_llama.quantize_embeddings`.
            show_progress: a progress bar on standard error.

        Returns:
            float32 of shape (dim,) for a string, (n, dim) for a sequence; (0, dim) for an empty one. With another
            ``precision`` int8 or uint8, and ceil(dim / 8) in place of dim for the signs.

        Raises:
            InputError: an item that is not a string or has a lone surrogate; an unknown prompt; bad dimensions; one
                text alone with "int8" or "uint8"; a text of which a prompt that is not pooled leaves nothing.
            TooLongError: a text over the limit with ``truncate=False``.
        """
        items, single = text_list(texts)
        check_precision(precision)
        width = self._check_dimensions(dimensions)
        before = choose_prompt(self._info, prompt_name, prompt)
        limit = self._limit(max_length)
        ids = self._token_ids(items, before, truncate, limit)
        n_skip = self._n_skip(before, limit)
        with progress_bar(len(ids), show_progress) as advance:
            vectors = self._engine.embed(ids, self._pooling, advance, n_skip)
        result = self._finish(vectors, width, self._info.normalize if normalize is None else normalize)
        if precision != "float32":
            result = quantize_embeddings(result, precision)
        return result[0] if single else result

    def embed_batches(
        self,
        texts: Iterable[str],
        *,
        batch_size: int = 1024,
        normalize: bool | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        truncate: bool = True,
        max_length: int | None = None,
        precision: Precision = "float32",
    ) -> Iterator[NDArray[Any]]:
        """Embed any iterable lazily, in order: yields float32 of shape (k, dim) with k <= ``batch_size``.

        Memory stays that of one batch. The other arguments are those of :meth:`embed`, but that ``precision`` cannot be
        "int8" or "uint8", whose ranges span all texts: use :func:`~modernbert_llama.quantize_embeddings` with ranges.
        """
        check_precision(precision)
        if precision in ("int8", "uint8"):
            raise InputError(
                f"embed_batches cannot give {precision}, whose ranges span all texts: "
                "call embed, or quantize_embeddings with ranges on each block"
            )
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, expected at least 1")
        if isinstance(texts, str):
            raise InputError("texts is one string; give embed_batches an iterable of strings")
        iterator = iter(texts)
        while block := list(itertools.islice(iterator, batch_size)):
            yield self.embed(
                block,
                normalize=normalize,
                prompt_name=prompt_name,
                prompt=prompt,
                dimensions=dimensions,
                truncate=truncate,
                max_length=max_length,
                precision=precision,
            )

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[np.float32]:
        """The model's own similarity of every pair: (n, d) and (m, d) -> float32 of shape (n, m), larger is nearer.

        Cosine unless the checkpoint says dot, euclidean or manhattan; of the last two the negated distance.
        """
        return similarity(self._info.similarity, embeddings1, embeddings2)

    def embed_tokens(self, ids: Sequence[Sequence[int]], *, normalize: bool = False) -> NDArray[np.float32]:
        """Embed texts given as token ids (special tokens included): float32 of shape (n, dim)."""
        return self._finish(self._engine.embed(ids, self._pooling), self.dim, normalize)

    def activations(self, ids: Sequence[int]) -> dict[str, NDArray[np.float32]]:
        """Every named node of the graph for one text given as token ids, by its name in llama.cpp ("l_out-3").

        Each is float32 of shape (n_tokens, width).
        """
        # without pooling llama.cpp renames the final norm's output; the graph of BERT numbers no norm of the embedding
        names = {"result_embd_pooled": "final_norm_out", "inp_norm": "inp_norm-0"}
        return {names.get(name, name): values for name, values in self._engine.activations(ids)}

    def _check_dimensions(self, dimensions: int | None) -> int:
        if dimensions is None:
            return self.dim
        if not 1 <= dimensions <= self._width:
            raise InputError(f"dimensions is {dimensions}, expected 1 to {self._width}")
        return dimensions

    def _finish(self, vectors: NDArray[np.float32], width: int, normalize: bool) -> NDArray[np.float32]:
        """The steps behind the pooling, the first ``width`` values of each vector, and its length."""
        if self._info.steps and len(vectors):
            exact = vectors.astype(np.float64)
            for step in self._info.steps:
                exact = step(exact)
            vectors = exact.astype(np.float32)
        elif self._info.steps:
            vectors = np.zeros((0, self._width), np.float32)
        if width < vectors.shape[1]:
            vectors = np.ascontiguousarray(vectors[:, :width])
        return _normalized(vectors) if normalize and vectors.size else vectors


def _normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    # the floor of torch.nn.functional.normalize
    return np.asarray(vectors / np.maximum(norms, np.float32(1e-12)))


def _choose_pooling(path: Path, asked: str | Sequence[str] | None, own: str | None) -> str:
    known = get_args(Pooling)
    if asked is None:
        chosen = own
    elif isinstance(asked, str):
        chosen = asked
    else:
        chosen = "+".join(asked)
    if chosen is None:
        raise ModelFileError(f"{path}: the file names no pooling; choose one of {', '.join(known)} with pooling=")
    for mode in chosen.split("+"):
        if mode not in known:
            if asked is None:
                raise ModelFileError(f"{path}: the pooling {chosen!r} is not known; known are {', '.join(known)}")
            raise InputError(f"pooling is {asked!r}, expected {', '.join(known)}, or several of them")
    return chosen


@functools.lru_cache(maxsize=4)
def _cached(model: str) -> Embedder:
    return Embedder(model)


def embed(
    texts: str | Sequence[str],
    *,
    model: str | os.PathLike[str],
    normalize: bool | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
    dimensions: int | None = None,
    truncate: bool = True,
    max_length: int | None = None,
    precision: Precision = "float32",
    show_progress: bool | None = None,
) -> NDArray[Any]:
    """Embed in one call; the last four models stay loaded for the process. See :meth:`Embedder.embed`."""
    return _cached(os.fspath(model)).embed(
        texts,
        normalize=normalize,
        prompt_name=prompt_name,
        prompt=prompt,
        dimensions=dimensions,
        truncate=truncate,
        max_length=max_length,
        precision=precision,
        show_progress=show_progress,
    )

"""The public API: :class:`Embedder` and :func:`embed`."""

from __future__ import annotations

import functools
import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from modernbert_llama.cache import converted
from modernbert_llama.errors import InputError, ModelFileError, ModelNotFoundError, TooLongError, TruncationWarning
from modernbert_llama.model_info import ModelInfo
from modernbert_llama.native import Engine
from modernbert_llama.threads import default_threads
from modernbert_llama.tokenizer import HuggingFaceTokenizer, LlamaTokenizer, Tokenizer, check_text

__all__ = ["Embedder", "embed"]

Pooling = Literal["cls", "mean", "last"]
DType = Literal["f32", "f16", "bf16", "q8_0"]

_TOKENIZE_CHUNK = 1024  # texts handed to the tokenizer at once, so that Ctrl-C is heard between


class Embedder:
    """A ModernBERT embedding model.

    Args:
        model: a GGUF file, a local Hugging Face folder, or a hub id. Folders and ids are converted once, into a cache.
        n_threads: threads of one forward pass; by default the physical cores that the process may use.
        n_gpu_layers: layers to offload, in a build with a GPU backend.
        pooling: "cls", "mean" or "last" in place of the model's own.
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

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        n_threads: int | None = None,
        n_gpu_layers: int = 0,
        pooling: Pooling | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
        dtype: DType | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        per_channel: bool = False,
    ) -> None:
        if n_threads is None:
            n_threads = default_threads()
        if per_channel and n_gpu_layers:
            raise InputError("per_channel is for the CPU: leave out n_gpu_layers")
        if per_channel and dtype not in (None, "q8_0"):
            raise InputError(f"per_channel is for q8_0 weights, dtype is {dtype!r}")
        path = _resolve(model, "q8_0" if per_channel and not _is_file(model) else dtype, revision, cache_dir)
        self._engine = Engine(str(path), n_threads=n_threads, n_gpu_layers=n_gpu_layers, per_channel=per_channel)
        self._info = ModelInfo.read(path)
        if per_channel and self._info.metadata.get("general.file_type") != gguf.LlamaFileType.MOSTLY_Q8_0:
            raise InputError(f"{path}: per_channel is for q8_0 weights, and this file has others")
        if pooling is not None and pooling not in ("cls", "mean", "last"):
            raise InputError(f"pooling is {pooling!r}, expected 'cls', 'mean' or 'last'")
        chosen = pooling or self._info.pooling
        if chosen is None:
            raise ModelFileError(f"{path}: the file names no pooling; choose one with pooling='cls', 'mean' or 'last'")
        self._pooling: str = chosen
        self._tokenizer = self._make_tokenizer(path, tokenizer)
        self._n_truncated = 0

    def _make_tokenizer(self, path: Path, tokenizer: str | os.PathLike[str] | None) -> Tokenizer:
        if tokenizer == "llama" or (tokenizer is None and self._info.tokenizer_json is None):
            return LlamaTokenizer(self._engine)
        if tokenizer is None:
            assert self._info.tokenizer_json is not None
            return HuggingFaceTokenizer(self._info.tokenizer_json, str(path))
        file = Path(tokenizer)
        try:
            return HuggingFaceTokenizer(file.read_text(encoding="utf-8"), str(file))
        except OSError as error:
            raise ModelNotFoundError(f"{file}: cannot be read ({error.strerror})") from error

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self._info.truncate_dim or self._engine.n_embd

    @property
    def max_length(self) -> int:
        """Tokens of the longest text that is not truncated, the special tokens included."""
        return self._info.max_length

    @property
    def pooling(self) -> str:
        """ "cls", "mean" or "last"."""
        return self._pooling

    @property
    def prompts(self) -> Mapping[str, str]:
        """The model's prompts by name; each goes before a text."""
        return self._info.prompts

    @property
    def metadata(self) -> Mapping[str, object]:
        """The keys of the GGUF file, but for the vocabulary."""
        return self._info.metadata

    @property
    def n_truncated(self) -> int:
        """How many texts have been cut to the maximum length so far."""
        return self._n_truncated

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
        show_progress: bool | None = None,
    ) -> NDArray[np.float32]:
        """Embed one text or several.

        Args:
            texts: a string, or a sequence of n strings.
            normalize: scale each vector to length 1; by default as the model's pipeline does.
            prompt_name: the model's prompt to put before each text; by default the model's default prompt.
            prompt: a prompt of your own, in place of a named one.
            dimensions: keep only the first so many values of each vector (Matryoshka), before normalising.
            truncate: cut texts that are too long, keeping the closing special token; otherwise raise.
            max_length: a limit in tokens below the model's own.
            show_progress: a progress bar on standard error.

        Returns:
            float32 of shape (dim,) for a string, (n, dim) for a sequence; (0, dim) for an empty one.

        Raises:
            InputError: an item that is not a string or has a lone surrogate; an unknown prompt; bad dimensions.
            TooLongError: a text over the limit with ``truncate=False``.
        """
        single = isinstance(texts, str)
        if isinstance(texts, (bytes, bytearray, memoryview)):
            raise InputError(f"texts is {type(texts).__name__}, expected str or a sequence of str")
        if not single and not isinstance(texts, Iterable):
            raise InputError(f"texts is {type(texts).__name__}, expected str or a sequence of str")
        items: list[str] = [texts] if isinstance(texts, str) else list(texts)
        width = self._check_dimensions(dimensions)
        ids = self._token_ids(items, self._choose_prompt(prompt_name, prompt), truncate, max_length)
        with tqdm(total=len(ids), unit="text", disable=not show_progress, leave=False) as bar:
            vectors = self._engine.embed(ids, self._pooling, lambda done: _advance(bar, done))
        if normalize is None:
            normalize = self._info.normalize
        result = _finish(vectors, width, normalize)
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
    ) -> Iterator[NDArray[np.float32]]:
        """Embed any iterable lazily, in order: yields float32 of shape (k, dim) with k <= ``batch_size``.

        Memory stays that of one batch. The other arguments are those of :meth:`embed`.
        """
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
            )

    def tokenize(self, text: str) -> list[int]:
        """The token ids of ``text`` with the special tokens around it, not truncated."""
        return self._tokenizer.encode([check_text(text, 0)])[0]

    def embed_tokens(self, ids: Sequence[Sequence[int]], *, normalize: bool = False) -> NDArray[np.float32]:
        """Embed texts given as token ids (special tokens included): float32 of shape (n, dim)."""
        return _finish(self._engine.embed(ids, self._pooling), self.dim, normalize)

    def activations(self, ids: Sequence[int]) -> dict[str, NDArray[np.float32]]:
        """Every named node of the graph for one text given as token ids, by its name in llama.cpp ("l_out-3").

        Each is float32 of shape (n_tokens, width).
        """
        found = dict(self._engine.activations(ids))
        if "result_embd_pooled" in found:  # without pooling llama.cpp renames the final norm's output
            found["final_norm_out"] = found.pop("result_embd_pooled")
        return found

    def _choose_prompt(self, prompt_name: str | None, prompt: str | None) -> str:
        if prompt is not None:
            if prompt_name is not None:
                raise InputError("give prompt or prompt_name, not both")
            return check_text(prompt, 0)
        name = prompt_name if prompt_name is not None else self._info.default_prompt_name
        if name is None:
            return ""
        if name not in self._info.prompts:
            known = ", ".join(map(repr, self._info.prompts)) or "none"
            raise InputError(f"the model has no prompt {name!r}; it has: {known}")
        return self._info.prompts[name]

    def _check_dimensions(self, dimensions: int | None) -> int:
        if dimensions is None:
            return self.dim
        if not 1 <= dimensions <= self._engine.n_embd:
            raise InputError(f"dimensions is {dimensions}, expected 1 to {self._engine.n_embd}")
        return dimensions

    def _token_ids(self, texts: list[str], prompt: str, truncate: bool, max_length: int | None) -> list[list[int]]:
        limit = self.max_length
        if max_length is not None:
            if not 1 <= max_length <= self._info.context_length:
                raise InputError(f"max_length is {max_length}, expected 1 to {self._info.context_length}")
            limit = max_length
        checked = [prompt + check_text(text, i) for i, text in enumerate(texts)]
        ids: list[list[int]] = []
        for start in range(0, len(checked), _TOKENIZE_CHUNK):
            ids += self._tokenizer.encode(checked[start : start + _TOKENIZE_CHUNK])
        n_over = 0
        for i, item in enumerate(ids):
            if not item:
                raise InputError(f"text {i} has no tokens: it is empty and the tokenizer adds no special tokens")
            if len(item) > limit:
                if not truncate:
                    raise TooLongError(f"text {i} has {len(item)} tokens, the limit is {limit}")
                ids[i] = self._tokenizer.truncate(item, limit)
                n_over += 1
        if n_over:
            self._report_truncation(n_over, limit)
        return ids

    def _report_truncation(self, n_over: int, limit: int) -> None:
        first = self._n_truncated == 0
        self._n_truncated += n_over
        if first:
            warnings.warn(
                f"{n_over} text(s) cut to {limit} tokens; later cuts are counted in n_truncated without a warning",
                TruncationWarning,
                stacklevel=4,
            )


def _is_file(model: str | os.PathLike[str]) -> bool:
    path = Path(model)
    return path.is_file() or path.suffix == ".gguf"


def _resolve(
    model: str | os.PathLike[str], dtype: DType | None, revision: str | None, cache_dir: str | os.PathLike[str] | None
) -> Path:
    path = Path(model)
    if _is_file(path):
        if not path.is_file():
            raise ModelNotFoundError(f"{path}: no such file")
        if dtype is not None or revision is not None:
            raise InputError(f"{path} is a GGUF file: dtype and revision are for folders and hub ids")
        return path
    return converted(model, outtype=dtype or "f32", revision=revision, cache_dir=cache_dir)


def _advance(bar: tqdm[None], done: int) -> None:
    bar.update(done - bar.n)


def _finish(vectors: NDArray[np.float32], width: int, normalize: bool) -> NDArray[np.float32]:
    if width < vectors.shape[1]:
        vectors = np.ascontiguousarray(vectors[:, :width])
    if normalize and vectors.size:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        # the floor of torch.nn.functional.normalize
        vectors = vectors / np.maximum(norms, np.float32(1e-12))
    return vectors


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
    show_progress: bool | None = None,
) -> NDArray[np.float32]:
    """Embed in one call; the last four models stay loaded for the process. See :meth:`Embedder.embed`."""
    return _cached(os.fspath(model)).embed(
        texts,
        normalize=normalize,
        prompt_name=prompt_name,
        prompt=prompt,
        dimensions=dimensions,
        truncate=truncate,
        max_length=max_length,
        show_progress=show_progress,
    )

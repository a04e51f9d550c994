"""The embedding half of ``llama_cpp.Llama`` on our engine: the same names, defaults and return shapes.

docs/llama-cpp-python.md lists what differs on purpose; tests/test_llama.py compares both.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from modernbert_llama import keys
from modernbert_llama.errors import InputError, ModelNotFoundError, TruncationWarning
from modernbert_llama.llama_compat.constants import (
    LLAMA_ATTENTION_TYPE_NON_CAUSAL,
    LLAMA_ATTENTION_TYPE_UNSPECIFIED,
    LLAMA_DEFAULT_SEED,
    LLAMA_POOLING_TYPE_CLS,
    LLAMA_POOLING_TYPE_LAST,
    LLAMA_POOLING_TYPE_MEAN,
    LLAMA_POOLING_TYPE_NONE,
    LLAMA_POOLING_TYPE_UNSPECIFIED,
    LLAMA_ROPE_SCALING_TYPE_NONE,
    LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED,
    LLAMA_SPLIT_MODE_LAYER,
)
from modernbert_llama.model_info import ModelInfo
from modernbert_llama.native import Engine
from modernbert_llama.threads import default_threads
from modernbert_llama.tokenizer import check_text, encode_within, tokenizer_of_file

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CreateEmbeddingResponse", "Embedding", "EmbeddingUsage", "Llama", "ModelPathError"]

_POOLING: Final = {
    LLAMA_POOLING_TYPE_NONE: "none",
    LLAMA_POOLING_TYPE_MEAN: "mean",
    LLAMA_POOLING_TYPE_CLS: "cls",
    LLAMA_POOLING_TYPE_LAST: "last",
}
# arguments of releases before 0.2 that LangChain still passes, and that llama-cpp-python ignores too
_FORMER: Final = ("f16_kv", "n_parts")


class ModelPathError(ModelNotFoundError, ValueError):
    """No such file; a ValueError too, which is what llama-cpp-python raises."""


class EmbeddingUsage(TypedDict):
    """How many tokens were embedded."""

    prompt_tokens: int
    total_tokens: int


class Embedding(TypedDict):
    """The vector of one text, or without pooling those of its tokens."""

    index: int
    object: str
    embedding: list[float] | list[list[float]]


class CreateEmbeddingResponse(TypedDict):
    """What OpenAI's endpoint for embeddings returns."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


class Llama:
    """A model file to embed with, called as ``llama_cpp.Llama`` is; llama-cpp-python need not be installed.

    Args:
        model_path: a GGUF file.
        n_gpu_layers: layers to offload, in a build with a GPU backend; -1 for all.
        n_ctx: tokens of the longest text, special tokens included; 0, or more than the model has, for the model's own.
        n_batch: tokens that a forward pass aims at; a longer text gets a pass of its own.
        n_threads: threads of a forward pass; by default the physical cores that the process may use.
        n_threads_batch: the same, and stands above ``n_threads``, as llama.cpp embeds with these.
        pooling_type: a ``LLAMA_POOLING_TYPE_`` constant: NONE, MEAN, CLS, LAST, or UNSPECIFIED for that of the file.

    Refused, unless left at the default or at what a ModernBERT has anyway, since they would change the vectors or the
    place where they are computed: ``split_mode``, ``main_gpu``, ``tensor_split``, ``kv_overrides``,
    ``rope_scaling_type``, ``attention_type``, ``rope_freq_base``, ``rope_freq_scale``, ``yarn_*``, ``lora_path`` and
    ``tokenizer``. Without effect, since they concern text generation, the cache of keys and values or how a file is
    read: all others. The log goes to the logger "modernbert_llama", whatever ``verbose`` says.

    Safe to use from several threads; they take turns on the model.

    Raises:
        ModelPathError: no such file.
        ModelFileError: a damaged or foreign GGUF file.
        InputError: an argument that is refused.
        OutOfMemoryError: the model does not fit.
        TypeError: an argument that ``llama_cpp.Llama`` does not have.
    """

    def __init__(
        self,
        model_path: str,
        *,
        n_gpu_layers: int = 0,
        split_mode: int = LLAMA_SPLIT_MODE_LAYER,
        main_gpu: int = 0,
        tensor_split: list[float] | None = None,
        vocab_only: bool = False,
        use_mmap: bool = True,
        use_mlock: bool = False,
        kv_overrides: Mapping[str, bool | int | float | str] | None = None,
        seed: int = LLAMA_DEFAULT_SEED,
        n_ctx: int = 512,
        n_batch: int = 512,
        n_ubatch: int = 512,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        rope_scaling_type: int | None = LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED,
        pooling_type: int = LLAMA_POOLING_TYPE_UNSPECIFIED,
        attention_type: int = LLAMA_ATTENTION_TYPE_UNSPECIFIED,
        rope_freq_base: float = 0.0,
        rope_freq_scale: float = 0.0,
        yarn_ext_factor: float = -1.0,
        yarn_attn_factor: float = 1.0,
        yarn_beta_fast: float = 32.0,
        yarn_beta_slow: float = 1.0,
        yarn_orig_ctx: int = 0,
        logits_all: bool = False,
        embedding: bool = False,
        offload_kqv: bool = True,
        flash_attn: bool = False,
        op_offload: bool | None = None,
        swa_full: bool | None = None,
        no_perf: bool = False,
        last_n_tokens_size: int = 64,
        lora_base: str | None = None,
        lora_scale: float = 1.0,
        lora_path: str | None = None,
        numa: bool | int = False,
        chat_format: str | None = None,
        chat_handler: object = None,
        draft_model: object = None,
        tokenizer: object = None,
        type_k: int | None = None,
        type_v: int | None = None,
        spm_infill: bool = False,
        verbose: bool = True,
        **kwargs: Any,
    ) -> None:
        for name in kwargs:
            if name not in _FORMER:
                raise TypeError(f"Llama has no argument {name!r}")
        _refuse("split_mode", split_mode, LLAMA_SPLIT_MODE_LAYER)
        _refuse("main_gpu", main_gpu, 0)
        _refuse("tensor_split", tensor_split, None, [])
        _refuse("kv_overrides", kv_overrides, None, {})
        _refuse(
            "rope_scaling_type",
            rope_scaling_type,
            *(None, LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED, LLAMA_ROPE_SCALING_TYPE_NONE),
        )
        _refuse("attention_type", attention_type, LLAMA_ATTENTION_TYPE_UNSPECIFIED, LLAMA_ATTENTION_TYPE_NON_CAUSAL)
        _refuse("rope_freq_base", rope_freq_base, 0.0)
        _refuse("rope_freq_scale", rope_freq_scale, 0.0, 1.0)
        _refuse("yarn_ext_factor", yarn_ext_factor, -1.0, 0.0)
        _refuse("yarn_attn_factor", yarn_attn_factor, 1.0)
        _refuse("yarn_beta_fast", yarn_beta_fast, 32.0)
        _refuse("yarn_beta_slow", yarn_beta_slow, 1.0)
        _refuse("yarn_orig_ctx", yarn_orig_ctx, 0)
        _refuse("lora_path", lora_path, None)
        _refuse("tokenizer", tokenizer, None)
        if pooling_type != LLAMA_POOLING_TYPE_UNSPECIFIED and pooling_type not in _POOLING:
            raise InputError(f"pooling_type is {pooling_type}, expected LLAMA_POOLING_TYPE_NONE, MEAN, CLS or LAST")
        if n_ctx < 0 or n_batch < 1:
            raise InputError(f"n_ctx is {n_ctx} and n_batch {n_batch}, expected at least 0 and 1")
        if not Path(model_path).is_file():
            raise ModelPathError(f"{model_path}: no such file")

        self.model_path = os.fspath(model_path)
        self.n_threads = n_threads or default_threads()
        self.n_threads_batch = n_threads_batch or self.n_threads
        self.verbose = verbose
        self._engine: Engine | None = Engine(
            self.model_path,
            n_threads=self.n_threads_batch,
            n_gpu_layers=0x7FFFFFFF if n_gpu_layers == -1 else n_gpu_layers,
            n_batch=min(n_batch, n_ctx or n_batch),
        )
        info = ModelInfo.read(Path(model_path))
        if info.task == "sequence-classification" and pooling_type == LLAMA_POOLING_TYPE_UNSPECIFIED:
            raise InputError(
                f"{model_path} is a reranker or text classifier: use Reranker or Classifier, or a pooling_type"
            )
        self._n_ctx = min(n_ctx or info.context_length, info.context_length)
        self.n_batch = min(n_batch, self._n_ctx)
        self._pooling = _POOLING.get(pooling_type) or info.pooling or "none"
        self._tokenizer = tokenizer_of_file(info, self.model_path, self._engine)
        self._n_truncated = 0
        #: The keys of the file but its arrays, each value as the text that llama.cpp makes of it.
        self.metadata: dict[str, str] = {
            key: _text_of(value) for key, value in info.metadata.items() if not isinstance(value, list)
        }
        if info.tokenizer_json is not None:
            self.metadata[keys.TOKENIZER_JSON] = info.tokenizer_json

    def create_embedding(self, input: str | list[str], model: str | None = None) -> CreateEmbeddingResponse:
        """Embed one text or several, in the form of OpenAI's endpoint.

        Args:
            input: a string or a sequence of strings.
            model: the name to return as "model"; by default the path.

        Returns:
            A dict: "data" has a dict for each text, with its "embedding" as :meth:`embed` returns it (not normalised),
            and "usage" the number of tokens.

        Raises:
            InputError: an item that is not a string or has a lone surrogate.
        """
        embeddings, n_tokens = self.embed([input] if isinstance(input, str) else input, return_count=True)
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "embedding": embedding, "index": i} for i, embedding in enumerate(embeddings)
            ],
            "model": self.model_path if model is None else model,
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        }

    def embed(
        self,
        input: str | list[str],
        normalize: bool = False,
        truncate: bool = True,
        return_count: bool = False,
    ) -> Any:
        """Embed one text or several.

        Args:
            input: a string, or a sequence of strings.
            normalize: scale each vector to length 1.
            truncate: cut texts of more than :meth:`n_ctx` tokens, keeping the closing special token; otherwise raise.
            return_count: return the number of tokens too.

        Returns:
            A list of floats for a string, a list of such lists for a sequence. With ``LLAMA_POOLING_TYPE_NONE`` a list
            of floats for each token stands in place of each list of floats. With ``return_count`` a tuple of that and
            the number of tokens that were embedded.

        Raises:
            InputError: an item that is not a string or has a lone surrogate; a model that is closed.
            TooLongError: a text of more than :meth:`n_ctx` tokens, with ``truncate=False``.
        """
        engine = self._open()
        if isinstance(input, (bytes, bytearray, memoryview)) or not isinstance(input, Iterable):
            raise InputError(f"input is {type(input).__name__}, expected str or a sequence of str")
        texts = [check_text(text, i) for i, text in enumerate([input] if isinstance(input, str) else input)]
        ids, n_over = encode_within(self._tokenizer, texts, self._n_ctx, truncate)
        if n_over and not self._n_truncated:
            warnings.warn(
                f"{n_over} text(s) cut to {self._n_ctx} tokens, and later ones will be without a warning; "
                "n_ctx sets the limit, 0 for the model's own",
                TruncationWarning,
                stacklevel=2,
            )
        self._n_truncated += n_over
        rows = _normalized(engine.embed(ids, self._pooling), normalize).tolist()
        counts = [len(item) for item in ids]
        if self._pooling == "none":
            ends = list(itertools.accumulate(counts))
            rows = [rows[end - count : end] for count, end in zip(counts, ends, strict=True)]
        result = rows[0] if isinstance(input, str) else rows
        return (result, sum(counts)) if return_count else result

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """The token ids of a UTF-8 text, not cut.

        Args:
            text: the text; bytes that are no UTF-8 become U+FFFD.
            add_bos: put the special tokens around it.
            special: read special tokens that the text spells out ("[MASK]") as such, as :meth:`embed` does.

        Raises:
            InputError: a text that is not bytes.
        """
        self._open()
        if not isinstance(text, (bytes, bytearray)):
            raise InputError(f"text is {type(text).__name__}, expected bytes")
        decoded = text.decode("utf-8", errors="replace")
        return self._tokenizer.tokenize(decoded, add_special=add_bos, parse_special=special)

    def detokenize(self, tokens: list[int], prev_tokens: list[int] | None = None, special: bool = False) -> bytes:
        """The bytes that ``tokens`` stand for, those of special tokens only if ``special``.

        A token may end amid a character. ``prev_tokens`` changes nothing: a token stands for the same bytes anywhere.

        Raises:
            InputError: an id outside the vocabulary.
        """
        return self._open().detokenize(tokens, special)

    def n_ctx(self) -> int:
        """Tokens of the longest text that is not cut."""
        return self._n_ctx

    def n_embd(self) -> int:
        """Width of an embedding."""
        return self._open().n_embd

    def n_vocab(self) -> int:
        """Number of tokens in the vocabulary."""
        return self._open().n_vocab

    def token_eos(self) -> int:
        """The id that ends a text ([SEP])."""
        return self._open().token_eos

    def token_bos(self) -> int:
        """The id that begins a text ([CLS])."""
        return self._open().token_bos

    def token_nl(self) -> int:
        """The id of a newline."""
        return self._open().token_nl

    def pooling_type(self) -> int:
        """The ``LLAMA_POOLING_TYPE_`` constant of the pooling in use."""
        return next(number for number, name in _POOLING.items() if name == self._pooling)

    def close(self) -> None:
        """Free the model; every later call that needs it raises InputError."""
        self._engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str | None,
        additional_files: list[str] | None = None,
        local_dir: str | os.PathLike[str] | None = None,
        local_dir_use_symlinks: bool | Literal["auto"] = "auto",
        cache_dir: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a GGUF file of a Hugging Face hub repository, fetched once and cached.

        Args:
            repo_id: the repository, "owner/name".
            filename: the file's path in it, or a pattern that one file matches ("*q8_0.gguf").
            additional_files: other files, or patterns of one file each, to fetch beside it.
            local_dir: keep the files here in place of the cache.
            local_dir_use_symlinks: without effect, as huggingface_hub has dropped it.
            cache_dir: in place of huggingface_hub's cache folder.
            **kwargs: arguments of :class:`Llama`.

        Raises:
            ModelNotFoundError: no such repository, or the hub cannot be reached.
            InputError: no file matches, or more than one.
        """
        if filename is None:
            raise InputError("filename is None: give the path of a GGUF file in the repository, or a pattern")
        from modernbert_llama import hub_download  # huggingface_hub costs 12 MB, which a local file does not need

        path = hub_download.fetch_file(repo_id, filename, local_dir=local_dir, cache_dir=cache_dir)
        for additional in additional_files or []:
            hub_download.fetch_file(repo_id, additional, local_dir=local_dir, cache_dir=cache_dir)
        return cls(model_path=str(path), **kwargs)

    def _open(self) -> Engine:
        if self._engine is None:
            raise InputError(f"{self.model_path} is closed")
        return self._engine


def _refuse(name: str, value: object, *allowed: object) -> None:
    if value not in allowed:
        raise InputError(f"{name} is {value!r}, which is not possible here: leave it at {allowed[0]!r}")


def _text_of(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:f}" if isinstance(value, float) else str(value)


def _normalized(rows: NDArray[np.float32], normalize: bool) -> NDArray[np.floating[Any]]:
    if not normalize:
        return rows
    exact = rows.astype(np.float64)  # as llama-cpp-python, whose floats are Python's
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    return exact / np.where(norms == 0, 1, norms)

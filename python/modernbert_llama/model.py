"""What every class of the public API shares: finding and loading a model, tokenizing, limits, progress."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal

import gguf
from tqdm import tqdm

from modernbert_llama import keys
from modernbert_llama.cache import converted
from modernbert_llama.errors import InputError, ModelNotFoundError, TruncationWarning
from modernbert_llama.model_info import ModelInfo
from modernbert_llama.native import Engine
from modernbert_llama.threads import default_threads
from modernbert_llama.tokenizer import (
    HuggingFaceTokenizer,
    LlamaTokenizer,
    Tokenizer,
    check_text,
    encode_within,
    tokenizer_of_file,
)

__all__ = ["DType", "HeadModel", "Model", "choose_prompt", "progress_bar", "resolve", "text_list"]

DType = Literal["f32", "f16", "bf16", "q8_0"]

# what a file is, and the classes for it
_KINDS: Mapping[keys.Task, tuple[str, str]] = {
    "embedding": ("a text embedder", "Embedder"),
    "sequence-classification": ("a reranker or text classifier", "Reranker or Classifier"),
    "token-classification": ("a token classifier", "TokenClassifier"),
    "fill-mask": ("a masked language model", "MaskedLM"),
    "sparse-embedding": ("a sparse embedder", "SparseEmbedder"),
    "multi-vector": ("a multi-vector embedder", "MultiVectorEmbedder"),
}


class Model:
    """The base of :class:`Embedder`, :class:`Reranker` and the others; not made by itself.

    Safe to use from several threads; they take turns on the model.
    """

    _TASKS: ClassVar[frozenset[keys.Task]] = frozenset()  # the kinds of files that a class takes

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        n_threads: int | None = None,
        n_gpu_layers: int = 0,
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
        path = resolve(model, dtype, revision, cache_dir, per_channel=per_channel)
        self._engine = Engine(str(path), n_threads=n_threads, n_gpu_layers=n_gpu_layers, per_channel=per_channel)
        self._path = path
        self._info = ModelInfo.read(path)
        self._check_task()
        if per_channel and self._info.metadata.get("general.file_type") != gguf.LlamaFileType.MOSTLY_Q8_0:
            raise InputError(f"{path}: per_channel is for q8_0 weights, and this file has others")
        self._tokenizer = self._make_tokenizer(tokenizer)
        self._n_truncated = 0

    def _check_task(self) -> None:
        if self._info.task not in self._TASKS:
            kind, classes = _KINDS[self._info.task]
            raise InputError(f"{self._path} is {kind}: use {classes}, not {type(self).__name__}")

    def _make_tokenizer(self, tokenizer: str | os.PathLike[str] | None) -> Tokenizer:
        if tokenizer is None:
            return tokenizer_of_file(self._info, str(self._path), self._engine)
        if tokenizer == "llama":
            return LlamaTokenizer(self._engine)
        file = Path(tokenizer)
        try:
            return HuggingFaceTokenizer(file.read_text(encoding="utf-8"), str(file))
        except OSError as error:
            raise ModelNotFoundError(f"{file}: cannot be read ({error.strerror})") from error

    @property
    def max_length(self) -> int:
        """Tokens of the longest text that is not truncated, the special tokens included."""
        return self._info.max_length

    @property
    def info(self) -> ModelInfo:
        """What the file says beside its weights, parsed."""
        return self._info

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
        return f"{type(self).__name__}({str(self._path)!r}, max_length={self.max_length})"

    def tokenize(self, text: str) -> list[int]:
        """The token ids of ``text`` with the special tokens around it, not truncated."""
        return self._tokenizer.encode([check_text(text, 0)])[0]

    def _limit(self, max_length: int | None) -> int:
        if max_length is None:
            return self.max_length
        if not 1 <= max_length <= self._info.context_length:
            raise InputError(f"max_length is {max_length}, expected 1 to {self._info.context_length}")
        return max_length

    def _n_skip(self, prompt: str, limit: int) -> int:
        """How many tokens are not pooled: those of a prompt that is kept out, and of what opens a text.

        As sentence-transformers counts them: not the closing one.
        """
        if self._info.include_prompt or not prompt:
            return 0
        ids = self._tokenizer.encode([prompt])[0]
        if len(ids) > limit:
            ids = self._tokenizer.truncate(ids, limit)
        around = self._tokenizer.encode([""])[0]
        return len(ids) - (len(around) > 1 and ids[-1:] == around[-1:])

    def _token_ids(self, texts: list[str], prompt: str, truncate: bool, limit: int) -> list[list[int]]:
        """The ids of texts behind ``prompt``; to be called right from the public method, for the warning's place."""
        checked = [prompt + check_text(text, i) for i, text in enumerate(texts)]
        ids, n_over = encode_within(self._tokenizer, checked, limit, truncate)
        self._report_truncation(n_over, limit)
        return ids

    def _report_truncation(self, n_over: int, limit: int, stacklevel: int = 4) -> None:
        """Counts cut texts and warns of the first; ``stacklevel`` 4 is the caller of the public method above."""
        if not n_over:
            return
        first = self._n_truncated == 0
        self._n_truncated += n_over
        if first:
            warnings.warn(
                f"{n_over} text(s) cut to {limit} tokens; later cuts are counted in n_truncated without a warning",
                TruncationWarning,
                stacklevel=stacklevel,
            )


class HeadModel(Model):
    """The base of the classes whose files hold a head; they prepare what they need of it in ``_set_up``."""

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        n_threads: int | None = None,
        n_gpu_layers: int = 0,
        dtype: DType | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        per_channel: bool = False,
    ) -> None:
        super().__init__(
            model,
            n_threads=n_threads,
            n_gpu_layers=n_gpu_layers,
            dtype=dtype,
            revision=revision,
            cache_dir=cache_dir,
            per_channel=per_channel,
        )
        self._set_up()

    def _set_up(self) -> None:
        """Reads the head of the loaded file. Raises ``ModelFileError`` where it does not fit."""


def text_list(texts: object) -> tuple[list[str], bool]:
    """The texts as a list, not checked one by one, and whether it was one string alone."""
    if isinstance(texts, str):
        return [texts], True
    if isinstance(texts, (bytes, bytearray, memoryview)) or not isinstance(texts, Iterable):
        raise InputError(f"texts is {type(texts).__name__}, expected str or a sequence of str")
    return list(texts), False


@contextmanager
def progress_bar(total: int, show: bool | None, unit: str = "text") -> Iterator[Callable[[int], None]]:
    """A bar on standard error if ``show``; yields what the engine calls with the number of texts that are done."""
    with tqdm(total=total, unit=unit, disable=not show, leave=False) as bar:

        def advance(done: int) -> None:
            bar.update(done - bar.n)

        yield advance


def resolve(
    model: str | os.PathLike[str],
    dtype: DType | None,
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None,
    *,
    per_channel: bool = False,
) -> Path:
    """The GGUF file of a file, folder or hub id; the last two are converted once, into a cache.

    Raises what ``converted`` raises, ``ModelNotFoundError`` for a file that is not there, and ``InputError`` for
    ``dtype`` or ``revision`` with a file, and for a ``dtype`` that cannot be ``per_channel``.
    """
    if per_channel and dtype not in (None, "q8_0"):
        raise InputError(f"per_channel is for q8_0 weights, dtype is {dtype!r}")
    path = Path(model)
    if _is_file(path):
        if not path.is_file():
            raise ModelNotFoundError(f"{path}: no such file")
        if dtype is not None or revision is not None:
            raise InputError(f"{path} is a GGUF file: dtype and revision are for folders and hub ids")
        return path
    return converted(model, outtype=dtype or ("q8_0" if per_channel else "f32"), revision=revision, cache_dir=cache_dir)


def _is_file(model: str | os.PathLike[str]) -> bool:
    path = Path(model)
    return path.is_file() or path.suffix == ".gguf"


def choose_prompt(info: ModelInfo, prompt_name: str | None, prompt: str | None) -> str:
    """The text of a prompt: ``prompt`` itself, the model's of that name, or the model's default one."""
    if prompt is not None:
        if prompt_name is not None:
            raise InputError("give prompt or prompt_name, not both")
        return check_text(prompt, 0)
    name = prompt_name if prompt_name is not None else info.default_prompt_name
    if name is None:
        return ""
    if name not in info.prompts:
        if name in ("query", "document"):  # as in sentence-transformers
            return ""
        known = ", ".join(map(repr, info.prompts)) or "none"
        raise InputError(f"the model has no prompt {name!r}; it has: {known}")
    return info.prompts[name]

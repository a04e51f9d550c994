"""Token classification: names, places, parts of speech as spans of a text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

from modernbert_llama.errors import InputError, ModelFileError, TooLongError
from modernbert_llama.model import HeadModel, progress_bar, text_list
from modernbert_llama.spans import Aggregation, Span, aggregate, check_aggregation, merge_windows
from modernbert_llama.token_windows import TokenWindows, Window
from modernbert_llama.tokenizer import HuggingFaceTokenizer, check_text

__all__ = ["TokenClassifier"]

_UNKNOWN: Final = "tokenizer.ggml.unknown_token_id"


class TokenClassifier(HeadModel):
    """A ModernBERT token classifier: ``ModernBertForTokenClassification``.

    Args:
        model: a GGUF file, a local Hugging Face folder, or a hub id. Folders and ids are converted once, into a cache.
        n_threads: threads of one forward pass; by default the physical cores that the process may use.
        n_gpu_layers: layers to offload, in a build with a GPU backend.
        dtype: type of the weights when a folder or id is converted: "f32" (default), "f16", "bf16" or "q8_0".
        revision: branch, tag or commit of a hub id.
        cache_dir: where conversions are kept.
        per_channel: faster and less exact products of q8_0 weights, as in :class:`Embedder`.

    Safe to use from several threads; they take turns on the model. Raises what :class:`Embedder` does.
    """

    _TASKS = frozenset({"token-classification"})

    def _set_up(self) -> None:
        if not isinstance(self._tokenizer, HuggingFaceTokenizer):
            raise ModelFileError(f"{self._path}: no embedded tokenizer, which says where tokens lie: convert it anew")
        n_outputs = self._engine.load_head()
        if n_outputs != len(self.labels):
            raise ModelFileError(f"{self._path}: the head has {n_outputs} outputs for {len(self.labels)} labels")
        self._windows = TokenWindows(self._tokenizer)
        unknown = self._info.metadata.get(_UNKNOWN)
        self._unknown_id = unknown if isinstance(unknown, int) else None

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of tokens, "B-" and "I-" included."""
        return self._info.labels

    def __repr__(self) -> str:
        return f"TokenClassifier(labels={len(self.labels)}, max_length={self.max_length})"

    @overload
    def tag(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self,
        texts: str,
        *,
        aggregation: Aggregation = ...,
        ignore_labels: Collection[str] = ...,
        stride: int | None = ...,
        truncate: bool = ...,
        max_length: int | None = ...,
        show_progress: bool | None = ...,
    ) -> list[Span]: ...
    @overload
    def tag(
        self,
        texts: Sequence[str],
        *,
        aggregation: Aggregation = ...,
        ignore_labels: Collection[str] = ...,
        stride: int | None = ...,
        truncate: bool = ...,
        max_length: int | None = ...,
        show_progress: bool | None = ...,
    ) -> list[list[Span]]: ...
    def tag(
        self,
        texts: str | Sequence[str],
        *,
        aggregation: Aggregation = "simple",
        ignore_labels: Collection[str] = ("O",),
        stride: int | None = None,
        truncate: bool = True,
        max_length: int | None = None,
        show_progress: bool | None = None,
    ) -> list[Span] | list[list[Span]]:
        """Find the spans of one text or several, as transformers' token-classification pipeline does.

        Args:
            texts: a string, or a sequence of n strings.
            aggregation: "none" gives tokens. "simple" joins neighbours of one label; a label "B-X" opens a span of X.
                "first", "average" and "max" give each word one label before that: its first token's, that of the mean
                of its tokens' scores, or its surest token's. Where the vocabulary does not mark what goes on with a
                word, as in all byte-level ones, a word goes up to a space, punctuation included.
            ignore_labels: labels to leave out; of spans, without the prefix.
            stride: read a text over the limit in windows that share so many tokens. Of the spans of two windows that
                overlap the longer is kept, then the surer one. Needs an aggregation.
            truncate: without a stride, cut texts that are too long; otherwise raise.
            max_length: a limit in tokens below the model's own.
            show_progress: a progress bar on standard error.

        Returns:
            The spans of a text in its order; for a sequence a list of them a text.

        Raises:
            InputError: an item that is not a string or has a lone surrogate; an unknown aggregation; a stride that
                leaves no room, or with aggregation "none".
            TooLongError: a text over the limit with ``truncate=False`` and no stride.
        """
        check_aggregation(aggregation)
        if isinstance(ignore_labels, str):
            raise InputError("ignore_labels is one string, expected a collection of labels")
        if stride is not None and (isinstance(stride, bool) or not isinstance(stride, int) or stride < 0):
            raise InputError(f"stride is {stride!r}, expected a number of tokens from 0 up")
        if stride is not None and aggregation == "none":
            raise InputError("stride needs an aggregation: the tokens that two windows share would come twice")
        found, single = text_list(texts)
        items = [check_text(text, i) for i, text in enumerate(found)]
        limit = self._limit(max_length)
        windows = self._windows.windows(items, limit, stride)
        if stride is None:
            windows = self._cut(items, windows, limit, truncate)
        logits = self._logits([window.ids for several in windows for window in several], show_progress)
        result = []
        for text, several in zip(items, windows, strict=True):
            spans: list[Span] = []
            for window in several:
                tokens = self._windows.scored(text, window, next(logits), self._unknown_id)
                spans += aggregate(tokens, self.labels, aggregation, ignore_labels, self._windows.join)
            result.append(merge_windows(spans) if len(several) > 1 else spans)
        return result[0] if single else result

    def _cut(self, texts: list[str], windows: list[list[Window]], limit: int, truncate: bool) -> list[list[Window]]:
        """The first window of each text, and a report of those that have more; "tag" is two frames above the report."""
        over = [i for i, several in enumerate(windows) if len(several) > 1]
        if over and not truncate:
            n_tokens = len(self._tokenizer.encode([texts[over[0]]])[0])
            raise TooLongError(f"text {over[0]} has {n_tokens} tokens, the limit is {limit}")
        self._report_truncation(len(over), limit)
        return [several[:1] for several in windows]

    def _logits(self, ids: list[list[int]], show_progress: bool | None) -> Iterator[NDArray[np.float32]]:
        """The head's outputs, (tokens, n_labels) for each window."""
        with progress_bar(len(ids), show_progress, "window") as advance:
            rows = self._engine.head_rows(ids, None, advance)
        return iter(np.split(rows, np.cumsum([len(item) for item in ids], dtype=np.int64)[:-1]))

"""What :class:`Reranker` and :class:`Classifier` share: texts and pairs to pooled vectors, and on to logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from modernbert_llama import keys
from modernbert_llama.errors import InputError, ModelFileError
from modernbert_llama.model import HeadModel, choose_prompt, progress_bar
from modernbert_llama.native import read_tensors
from modernbert_llama.sequence_head import sequence_head
from modernbert_llama.steps import width_after
from modernbert_llama.tokenizer import Pair, encode_pairs_within, encode_within

__all__ = ["SequenceModel"]


class SequenceModel(HeadModel):
    """An encoder with a head that gives a logit for each label; not made by itself."""

    _TASKS: ClassVar[frozenset[keys.Task]] = frozenset({"sequence-classification"})

    def _set_up(self) -> None:
        self._pooling = self._info.classifier_pooling or self._info.pooling or "mean"  # llama.cpp's default is the mean
        width = self._engine.n_embd * len(self._pooling.split("+"))
        self._steps = sequence_head(self._path, self._info, width)
        for step in self._steps:
            width = width_after(step, width)
        self._labels = self._info.labels or tuple(f"LABEL_{index}" for index in range(width))
        if len(self._labels) != width:
            raise ModelFileError(f"{self._path}: the head has {width} outputs and {len(self._labels)} labels")

    def _check_task(self) -> None:
        # llama.cpp's own converter names no task
        if keys.TASK in self._info.metadata or not read_tensors(str(self._path), "cls.output.weight"):
            super()._check_task()

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, in the order of the logits."""
        return self._labels

    def __repr__(self) -> str:
        return f"{type(self).__name__}(labels={self.labels!r}, max_length={self.max_length})"

    def _logits(
        self,
        items: Sequence[str | Pair],
        *,
        prompt_name: str | None,
        prompt: str | None,
        truncate: bool,
        max_length: int | None,
        show_progress: bool | None,
    ) -> NDArray[np.float64]:
        """Logits of checked texts and pairs, (n, labels); a prompt goes before the first text of a pair.

        To be called right from the public method, for the place of the warning.
        """
        before = choose_prompt(self._info, prompt_name, prompt)
        limit = self._limit(max_length)
        pairs = [(i, (before + item[0], item[1])) for i, item in enumerate(items) if not isinstance(item, str)]
        texts = [(i, before + item) for i, item in enumerate(items) if isinstance(item, str)]
        pair_ids, n_over = encode_pairs_within(self._tokenizer, [pair for _, pair in pairs], limit, truncate)
        text_ids, n_texts_over = encode_within(self._tokenizer, [text for _, text in texts], limit, truncate)
        self._report_truncation(n_over + n_texts_over, limit)
        ids: list[tuple[int, ...]] = [()] * len(items)
        for (i, _), item_ids in [*zip(pairs, pair_ids, strict=True), *zip(texts, text_ids, strict=True)]:
            ids[i] = tuple(item_ids)
        if not ids:
            return np.zeros((0, len(self._labels)))
        # equal items once: they must tie, and their place in a batch would show in the last bit
        places = {item: place for place, item in enumerate(dict.fromkeys(ids))}
        with progress_bar(len(places), show_progress, "pair" if pairs else "text") as advance:
            vectors = self._engine.embed(list(places), self._pooling, advance, self._n_skip(before, limit))
        vectors = vectors[[places[item] for item in ids]]
        logits = vectors.astype(np.float64)
        for step in self._steps:
            logits = step(logits)
        return logits


def check_top_k(top_k: int | None) -> None:
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise InputError(f"top_k is {top_k!r}, expected None or at least 1")

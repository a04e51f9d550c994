"""A text as the windows that a token classifier sees: ids, tokens and the characters that each stands for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modernbert_llama.errors import InputError
from modernbert_llama.spans import TokenScores
from modernbert_llama.tokenizer import HuggingFaceTokenizer

__all__ = ["TokenWindows", "Window"]


@dataclass(frozen=True)
class Window:
    """A piece of a text that the model takes at once; the lists go by token."""

    ids: list[int]
    tokens: list[str]  # as they are spelled in the vocabulary
    offsets: list[tuple[int, int]]  # in characters of the whole text
    is_special: list[bool]  # put around the window, not of the text


class TokenWindows:
    """Cuts texts with the checkpoint's own tokenizer. Safe to use from several threads."""

    def __init__(self, tokenizer: HuggingFaceTokenizer) -> None:
        self._tokenizer = tokenizer.copy()
        self._direction = "left" if tokenizer.truncates_left else "right"
        self._lock = threading.Lock()  # the limits are set on the tokenizer
        # a BPE or WordPiece vocabulary that marks what goes on with a word says where words begin
        self._marks_subwords = bool(getattr(self._tokenizer.model, "continuing_subword_prefix", None))

    def windows(self, texts: Sequence[str], limit: int, stride: int | None) -> list[list[Window]]:
        """The windows of checked texts, at most ``limit`` tokens each, the special ones included.

        Neighbours share ``stride`` tokens. With None a text is its first window; a second one then says that it was
        cut, and is all that is told of the rest.

        Raises:
            InputError: a limit that leaves no room for text beside the special tokens and the stride.
        """
        n_around = self._tokenizer.num_special_tokens_to_add(False)
        if limit < n_around or (stride is not None and limit - n_around <= stride):
            raise InputError(
                f"windows of {limit} tokens, {n_around} of them special, leave no room beside a stride of {stride or 0}"
            )
        with self._lock:
            self._tokenizer.enable_truncation(limit, stride=stride or 0, direction=self._direction)
            encodings = self._tokenizer.encode_batch(list(texts))
        return [
            [self._window(item) for item in (encoding, *encoding.overflowing[: None if stride is not None else 1])]
            for encoding in encodings
        ]

    def _window(self, encoding: Any) -> Window:
        # the encoding spells an added token as the text does, spaces around it included
        tokens: list[Any] = [self._tokenizer.id_to_token(number) for number in encoding.ids]
        return Window(encoding.ids, tokens, encoding.offsets, [bool(mask) for mask in encoding.special_tokens_mask])

    def scored(
        self, text: str, window: Window, logits: NDArray[np.float32], unknown_id: int | None
    ) -> list[TokenScores]:
        """The tokens of the text itself with their probabilities; ``logits`` is (tokens of the window, n_labels)."""
        shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        scores = shifted / shifted.sum(axis=1, keepdims=True)
        found = []
        for index, (start, end) in enumerate(window.offsets):
            if window.is_special[index]:
                continue
            word = window.tokens[index]
            if self._marks_subwords:
                is_subword = len(word) != end - start
            else:
                is_subword = start > 0 and " " not in text[start - 1 : start + 1]
            if window.ids[index] == unknown_id:
                word, is_subword = text[start:end], False
            found.append(TokenScores(word, scores[index], start, end, index, is_subword))
        return found

    def join(self, tokens: list[str]) -> str:
        """The text that tokens stand for, as transformers' ``convert_tokens_to_string`` has it."""
        decoder = self._tokenizer.decoder
        text: str = decoder.decode(tokens) if decoder is not None else " ".join(tokens)
        return text

"""Text -> token ids, exact to Hugging Face: the tokenizer that travels inside the GGUF file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import tokenizers

from modernbert_llama.errors import InputError, ModelFileError

if TYPE_CHECKING:
    from modernbert_llama.native import Engine

__all__ = ["HuggingFaceTokenizer", "LlamaTokenizer", "Tokenizer"]


class Tokenizer(Protocol):
    """Turns texts into token ids with the special tokens around them."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]: ...
    def truncate(self, ids: list[int], max_length: int) -> list[int]: ...


def check_text(text: object, index: int) -> str:
    """``text`` itself if it is a string that UTF-8 can hold, else :class:`InputError` naming ``index``."""
    if not isinstance(text, str):
        raise InputError(f"text {index} is {type(text).__name__}, expected str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"text {index} holds a lone surrogate at character {error.start}; "
            "decode the bytes with errors='replace' to keep the rest"
        ) from None
    return text


class HuggingFaceTokenizer:
    """The checkpoint's own ``tokenizer.json``, run by the ``tokenizers`` library."""

    def __init__(self, tokenizer_json: str, source: str) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # the library raises plain Exception
            raise ModelFileError(f"{source}: the embedded tokenizer cannot be read: {error}") from error
        # limits of our own: a saved truncation or padding must not change ids unseen
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._n_suffix = _n_suffix(self._tokenizer)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def truncate(self, ids: list[int], max_length: int) -> list[int]:
        """The first ``max_length`` tokens of ``ids``, the closing special tokens kept as Hugging Face keeps them."""
        return truncate(ids, max_length, self._n_suffix)


class LlamaTokenizer:
    """llama.cpp's own tokenizer, for files without an embedded one: no NFC, other rules for spaces before [MASK]."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._engine.tokenize(text) for text in texts]

    def truncate(self, ids: list[int], max_length: int) -> list[int]:
        return truncate(ids, max_length, 1)


def truncate(ids: list[int], max_length: int, n_suffix: int) -> list[int]:
    """``ids`` cut to ``max_length`` with its last ``n_suffix`` tokens kept."""
    if len(ids) <= max_length:
        return ids
    if max_length <= n_suffix:
        return ids[:max_length]
    return ids[: max_length - n_suffix] + ids[len(ids) - n_suffix :]


def _n_suffix(tokenizer: tokenizers.Tokenizer) -> int:
    # the special tokens that the post-processor puts behind a text, read off a text of one token
    encoding = tokenizer.encode("a")
    count = 0
    for special in reversed(encoding.special_tokens_mask):
        if not special:
            break
        count += 1
    return count if count < len(encoding.ids) else 0

"""Text -> token ids, exact to Hugging Face: the tokenizer that travels inside the GGUF file."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import tokenizers

from modernbert_llama.errors import InputError, ModelFileError, TooLongError
from modernbert_llama.pair_template import FIRST, SECOND, PairTemplate, longest_first
from modernbert_llama.tokenizer_form import PROBES

if TYPE_CHECKING:
    from modernbert_llama.model_info import ModelInfo
    from modernbert_llama.native import Engine

__all__ = [
    "HuggingFaceTokenizer",
    "LlamaTokenizer",
    "Pair",
    "Tokenizer",
    "check_pair",
    "check_text",
    "encode_pairs_within",
    "encode_within",
    "tokenizer_of_file",
]

Pair = tuple[str, str]

_CHUNK = 1024  # texts handed to the tokenizer at once, so that Ctrl-C is heard between


class Tokenizer(Protocol):
    """Turns texts into token ids with the special tokens around them."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]: ...
    def truncate(self, ids: list[int], max_length: int) -> list[int]: ...
    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]: ...
    @property
    def pair_template(self) -> PairTemplate: ...
    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...
    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str: ...
    def token(self, number: int) -> str: ...
    def token_id(self, token: str) -> int | None: ...


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


def check_pair(pair: object, index: int) -> Pair:
    """``pair`` itself if it is two strings that UTF-8 can hold, else :class:`InputError` naming ``index``."""
    if isinstance(pair, np.ndarray) and pair.ndim == 1:
        pair = pair.tolist()
    if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise InputError(f"pair {index} is {type(pair).__name__}, expected two strings")
    try:
        return check_text(pair[0], 0), check_text(pair[1], 1)
    except InputError as error:
        raise InputError(f"pair {index}: {error}") from None


class HuggingFaceTokenizer:
    """The checkpoint's own ``tokenizer.json``, run by the ``tokenizers`` library.

    ``split_special_tokens``: a special token that a text spells out is cut up like any other text.
    """

    def __init__(self, tokenizer_json: str, source: str, *, split_special_tokens: bool = False) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # the library raises plain Exception
            raise ModelFileError(f"{source}: the embedded tokenizer cannot be read: {error}") from error
        self._from_left = (self._tokenizer.truncation or {}).get("direction") == "left"
        # limits of our own: a saved truncation or padding must not change ids unseen
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = split_special_tokens
        self._n_prefix, self._n_suffix = _n_around(self._tokenizer)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        """As ``encode``, without the special tokens."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    @functools.cached_property
    def pair_template(self) -> PairTemplate:
        """Read off a short pair."""
        for probe in PROBES:
            pair = self._tokenizer.encode(probe, probe)
            if {0, 1} <= set(pair.sequence_ids):
                return PairTemplate.of(pair.ids, pair.sequence_ids, cut_left=self._from_left)
        return PairTemplate((FIRST, SECOND), self._from_left)

    def truncate(self, ids: list[int], max_length: int) -> list[int]:
        """``ids`` cut to ``max_length``, the special tokens around them kept, on the side where Hugging Face cuts."""
        if self._from_left:
            return truncate_left(ids, max_length, self._n_prefix)
        return truncate(ids, max_length, self._n_suffix)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """The ids of a text. ``add_special``: special tokens around it; ``parse_special``: "[MASK]" is read as one."""
        tokenizer = self._tokenizer if parse_special else self._literal
        ids: list[int] = tokenizer.encode(text, add_special_tokens=add_special).ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        """The text of token ids, with or without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special))

    def token(self, number: int) -> str:
        """A token as the vocabulary spells it; "" for an id that has none."""
        return self._tokenizer.id_to_token(number) or ""

    @property
    def truncates_left(self) -> bool:
        """Whether Hugging Face cuts a text that is too long at its beginning."""
        return self._from_left

    def copy(self) -> tokenizers.Tokenizer:
        """The tokenizer as the library has it, to be changed at will."""
        tokenizer = copy.deepcopy(self._tokenizer)
        tokenizer.encode_special_tokens = self._tokenizer.encode_special_tokens  # not copied by the library
        return tokenizer

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it, or None."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    @functools.cached_property
    def _literal(self) -> tokenizers.Tokenizer:
        tokenizer = self.copy()
        tokenizer.encode_special_tokens = True  # as the text that they are
        return tokenizer


class LlamaTokenizer:
    """llama.cpp's own tokenizer, for files without an embedded one. ``make tokenizer-table`` says how it differs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._engine.tokenize(text) for text in texts]

    def encode_plain(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._engine.tokenize(text, False) for text in texts]

    @functools.cached_property
    def pair_template(self) -> PairTemplate:
        """The usual one of BERT's family: the closing token stands behind each text."""
        around = self._engine.tokenize("")
        return PairTemplate((*around[:1], FIRST, *around[1:], SECOND, *around[1:]), cut_left=False)

    def truncate(self, ids: list[int], max_length: int) -> list[int]:
        return truncate(ids, max_length, 1)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return self._engine.tokenize(text, add_special, parse_special)

    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        return self._engine.detokenize(ids, not skip_special).decode("utf-8", "replace")

    def token(self, number: int) -> str:
        """The text of a token: llama.cpp does not tell how the vocabulary spells it."""
        return self.decode([number], skip_special=False)

    def token_id(self, token: str) -> int | None:
        ids = self._engine.tokenize(token, False)
        return ids[0] if len(ids) == 1 else None


def tokenizer_of_file(info: ModelInfo, path: str, engine: Engine) -> Tokenizer:
    """The tokenizer embedded in a model file, or llama.cpp's own where there is none."""
    if info.tokenizer_json is None:
        return LlamaTokenizer(engine)
    return HuggingFaceTokenizer(info.tokenizer_json, path, split_special_tokens=info.split_special_tokens)


def encode_within(tokenizer: Tokenizer, texts: Sequence[str], limit: int, cut: bool) -> tuple[list[list[int]], int]:
    """The token ids of checked texts, at most ``limit`` each, and how many texts were cut for that.

    Raises:
        InputError: a text without tokens.
        TooLongError: a text over the limit, if not to ``cut``.
    """
    ids: list[list[int]] = []
    for start in range(0, len(texts), _CHUNK):
        ids += tokenizer.encode(texts[start : start + _CHUNK])
    n_over = 0
    for i, item in enumerate(ids):
        if not item:
            raise InputError(f"text {i} has no tokens: it is empty and the tokenizer adds no special tokens")
        if len(item) > limit:
            if not cut:
                raise TooLongError(f"text {i} has {len(item)} tokens, the limit is {limit}")
            ids[i] = tokenizer.truncate(item, limit)
            n_over += 1
    return ids, n_over


def encode_pairs_within(
    tokenizer: Tokenizer, pairs: Sequence[Pair], limit: int, cut: bool
) -> tuple[list[list[int]], int]:
    """The token ids of checked pairs, at most ``limit`` each, and how many pairs were cut for that.

    A text that is in many pairs, as a query is, is tokenized once.

    Raises:
        TooLongError: a pair over the limit, if not to ``cut``.
    """
    if not pairs:
        return [], 0
    template = tokenizer.pair_template
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    plain: dict[str, list[int]] = {}
    for start in range(0, len(texts), _CHUNK):
        block = texts[start : start + _CHUNK]
        plain.update(zip(block, tokenizer.encode_plain(block), strict=True))
    room = max(limit - template.n_special, 0)
    ids: list[list[int]] = []
    n_over = 0
    for i, (a, b) in enumerate(pairs):
        first, second = plain[a], plain[b]
        if len(first) + len(second) > room:
            if not cut:
                total = len(first) + len(second) + template.n_special
                raise TooLongError(f"pair {i} has {total} tokens, the limit is {limit}")
            n_over += 1
            n_first, n_second = longest_first(len(first), len(second), room)
            first, second = template.cut(first, n_first), template.cut(second, n_second)
        ids.append(template.join(first, second)[:limit])
        if not ids[-1]:
            raise InputError(f"pair {i} has no tokens: it is empty and the tokenizer adds no special tokens")
    return ids, n_over


def truncate(ids: list[int], max_length: int, n_suffix: int) -> list[int]:
    """``ids`` cut to ``max_length`` with its last ``n_suffix`` tokens kept."""
    if len(ids) <= max_length:
        return ids
    if max_length <= n_suffix:
        return ids[:max_length]
    return ids[: max_length - n_suffix] + ids[len(ids) - n_suffix :]


def truncate_left(ids: list[int], max_length: int, n_prefix: int) -> list[int]:
    """``ids`` cut to ``max_length`` with its first ``n_prefix`` tokens kept, and the last of the text."""
    if len(ids) <= max_length:
        return ids
    kept = min(n_prefix, max_length)
    return ids[:kept] + ids[len(ids) - (max_length - kept) :]


def _n_around(tokenizer: tokenizers.Tokenizer) -> tuple[int, int]:
    """How many special tokens the post-processor puts before and behind a text, read off a short one."""
    for probe in PROBES:
        added = tokenizer.encode(probe).special_tokens_mask
        if not all(added):
            return added.index(0), added[::-1].index(0)
    return 0, 0

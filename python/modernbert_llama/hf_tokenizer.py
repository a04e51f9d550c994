"""The tokenizer of a checkpoint: the tokenizer.json that Hugging Face really runs.

transformers adds tokens of tokenizer_config.json on top of tokenizer.json when it loads a checkpoint. Where that
changes anything, the changed tokenizer is what goes into the GGUF, so that the ids stay those of Hugging Face.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from modernbert_llama.errors import CheckpointError, UnsupportedError
from modernbert_llama.jsonfile import Fields, read_text
from modernbert_llama.sentencepiece_model import convert_sentencepiece

__all__ = ["TokenizerSpec", "load_tokenizer", "read_tokenizer"]

_log = logging.getLogger(__name__)

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_MODEL_FILE = "tokenizer.model"
_OTHER_FILES = ("spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
_VERY_LARGE = 2**31  # transformers writes 1e30 for "no limit"


@dataclass(frozen=True)
class TokenizerSpec:
    """``json`` is a whole tokenizer.json; ``special`` maps ``cls_token`` and its like to their text."""

    path: Path
    json: str
    special: dict[str, str]
    model_max_length: int | None
    split_special_tokens: bool = False  # special tokens that a text spells out are taken as its letters


def read_tokenizer(folder: Path) -> TokenizerSpec:
    """Reads tokenizer.json, or tokenizer.model where there is none, and what tokenizer_config.json (or the older
    special_tokens_map.json) adds to it."""
    path = folder / "tokenizer.json"
    config = Fields.read_optional(folder / "tokenizer_config.json")
    if not path.exists():
        path = folder / _MODEL_FILE
    text, special = (_from_json if path.suffix == ".json" else _from_model)(path, config)
    limit = config.get("model_max_length")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit >= 1):
        raise config.wrong("model_max_length", "a positive number")
    return TokenizerSpec(
        path=path,
        json=text,
        special=special,
        model_max_length=int(limit) if limit is not None and limit < _VERY_LARGE else None,
        split_special_tokens=config.boolean("split_special_tokens", False),
    )


def load_tokenizer(path: Path, text: str) -> Tokenizer:
    """A tokenizer.json as the library runs it; ``path`` is for the ``CheckpointError`` of one that it refuses."""
    try:
        tokenizer: Tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{path} cannot be read as a tokenizer: {error}") from error
    return tokenizer


def _from_json(path: Path, config: Fields) -> tuple[str, dict[str, str]]:
    text = read_text(path)
    tokenizer = load_tokenizer(path, text)
    if Fields.of(path, json.loads(text)).object("model").get("dropout"):
        raise UnsupportedError(f"{path}: BPE with dropout gives other ids each time; set model.dropout to null")
    before = tokenizer.to_str()
    declared = _declared_tokens(config, tokenizer)
    _add_missing(tokenizer, declared)
    _set_truncation_side(tokenizer, config)
    after = tokenizer.to_str()
    if after != before:
        _log.info("%s changes tokenizer.json; the changed tokenizer is written, as Hugging Face runs it", config.path)
        text = after
    return text, {name: token.content for name, token in declared.named.items()}


def _from_model(path: Path, config: Fields) -> tuple[str, dict[str, str]]:
    folder = path.parent
    if not path.exists():
        others = [name for name in _OTHER_FILES if (folder / name).exists()]
        if others:  # transformers does not look for them either, for this model type
            raise UnsupportedError(
                f"{folder} has {others[0]} but no tokenizer.json: load its tokenizer by its own class in transformers "
                "and save it with save_pretrained"
            )
        raise CheckpointError(f"{folder} has no tokenizer.json")
    converted = convert_sentencepiece(path)
    tokenizer = converted.tokenizer
    if converted.added_tokens_are_left:
        _add_missing(tokenizer, _declared_tokens(config, tokenizer))
    _set_truncation_side(tokenizer, config)
    return tokenizer.to_str(), converted.special


def _set_truncation_side(tokenizer: Tokenizer, config: Fields) -> None:
    """Keeps the side on which Hugging Face cuts where a tokenizer.json has a place for it: its truncation object."""
    truncation = tokenizer.truncation or {}
    direction = truncation.get("direction", "right")
    side = config.string("truncation_side", direction)
    if side not in ("left", "right"):
        raise config.wrong("truncation_side", "'left' or 'right'")
    if side != direction:
        tokenizer.enable_truncation(truncation.get("max_length", 512), direction=side)


@dataclass(frozen=True)
class _Declared:
    """The tokens that the files beside a tokenizer.json name, in transformers' order."""

    numbered: list[AddedToken]  # by id
    named: dict[str, AddedToken]
    extra: list[AddedToken]


def _declared_tokens(config: Fields, tokenizer: Tokenizer) -> _Declared:
    values = dict(config.values)
    folder = config.path.parent
    legacy = "added_tokens_decoder" not in values
    if legacy:
        values.update(Fields.read_optional(folder / "special_tokens_map.json").values)
    named = {name: _token(config, name, values[name]) for name in _NAMED if values.get(name) is not None}
    extra = values.get("extra_special_tokens") or values.get("additional_special_tokens") or []
    if isinstance(extra, dict):
        extra = list(extra.values())
    if not isinstance(extra, list):
        raise config.wrong("extra_special_tokens", "a list or an object of tokens")
    own = [
        value
        for name, value in values.items()
        if name.endswith("_token") and name not in _NAMED and isinstance(value, str)
    ]
    more = [_token(config, "extra_special_tokens", token) for token in [*own, *extra]]
    if legacy:
        special = {token.content for token in [*named.values(), *more]}
        numbered = _legacy_tokens(Fields.read_optional(folder / "added_tokens.json"), tokenizer, special)
    else:
        decoder = config.object("added_tokens_decoder").values
        if not all(number.isdecimal() for number in decoder):
            raise config.wrong("added_tokens_decoder", "an object of tokens by id")
        # all of them: one that tokenizer.json has already takes the flags that are given here
        numbered = [_token(config, "added_tokens_decoder", decoder[number]) for number in sorted(decoder, key=int)]
    return _Declared(numbered, named, more)


def _legacy_tokens(file: Fields, tokenizer: Tokenizer, special: set[str]) -> list[AddedToken]:
    """The tokens of added_tokens.json that tokenizer.json lacks."""
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    numbers = {token: file.integer(token, 0, minimum=0) for token in file.values if token not in known}
    return [
        AddedToken(token, special=token in special, normalized=token not in special)
        for token in sorted(numbers, key=lambda token: numbers[token])
    ]


def _token(config: Fields, key: str, value: object) -> AddedToken:
    if isinstance(value, str):
        return AddedToken(value, special=True)
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise CheckpointError(f"{config.path}: {key!r} is not a token: {value!r}")
    token = Fields(config.path, value)
    special = token.boolean("special", key in _NAMED)
    return AddedToken(
        value["content"],
        single_word=token.boolean("single_word", False),
        lstrip=token.boolean("lstrip", False),
        rstrip=token.boolean("rstrip", False),
        normalized=token.boolean("normalized", not special),
        special=special,
    )


def _add_missing(tokenizer: Tokenizer, declared: _Declared) -> None:
    tokens = list(declared.numbered)
    present = {token.content for token in tokenizer.get_added_tokens_decoder().values()} | {t.content for t in tokens}
    for token in [*declared.named.values(), *declared.extra]:
        if token.content not in present:
            present.add(token.content)
            tokens.append(token)
    names = {token.content for token in declared.named.values()}
    for token in tokens:
        token.special = token.special or token.content in names
    tokenizer.add_tokens(tokens)

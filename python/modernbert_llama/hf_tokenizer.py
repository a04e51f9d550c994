"""The tokenizer of a checkpoint: the tokenizer.json that Hugging Face really runs, and the ggml vocabulary made of it.

transformers adds tokens of tokenizer_config.json on top of tokenizer.json when it loads a checkpoint. Where that
changes anything, the changed tokenizer is what goes into the GGUF, so that the ids stay those of Hugging Face.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from modernbert_llama.errors import CheckpointError, UnsupportedError
from modernbert_llama.jsonfile import Fields, read_text

__all__ = ["TokenType", "TokenizerSpec", "Vocabulary", "make_vocabulary", "read_tokenizer"]

_log = logging.getLogger(__name__)

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_VERY_LARGE = 2**31  # transformers writes 1e30 for "no limit"


class TokenType:
    """llama.cpp's token types."""

    NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


@dataclass(frozen=True)
class TokenizerSpec:
    """``json`` is a whole tokenizer.json; ``special`` maps ``cls_token`` and its like to their text."""

    path: Path
    json: str
    special: dict[str, str]
    model_max_length: int | None


@dataclass(frozen=True)
class Vocabulary:
    """A ggml byte-level BPE vocabulary: ``tokens`` and ``types`` by id, one for each row of the token embedding."""

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    bos: int | None  # put before every text
    eos: int | None  # put after every text
    special: dict[str, int]  # unk, sep, pad, cls, mask: those that exist


def read_tokenizer(folder: Path) -> TokenizerSpec:
    """Reads tokenizer.json and what tokenizer_config.json (or the older special_tokens_map.json) adds to it."""
    path = folder / "tokenizer.json"
    if not path.exists():
        others = [
            name for name in ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt") if (folder / name).exists()
        ]
        if others:
            raise UnsupportedError(
                f"{folder} has {others[0]} but no tokenizer.json: load it with AutoTokenizer (transformers) and save it"
            )
        raise CheckpointError(f"{folder} has no tokenizer.json")
    text = read_text(path)
    config = Fields.read_optional(folder / "tokenizer_config.json")
    if config.get("split_special_tokens"):
        raise UnsupportedError(f"{config.path}: split_special_tokens=true cannot be converted")
    tokenizer = _load(path, text)
    side = config.string("truncation_side", (tokenizer.truncation or {}).get("direction", "right"))
    if side != "right":
        raise UnsupportedError(f"{config.path}: truncation_side={side!r} cannot be converted, only 'right' can")

    named, extra = _declared_tokens(folder, config, tokenizer)
    before = tokenizer.to_str()
    _add_missing(tokenizer, config, named, extra)
    after = tokenizer.to_str()
    if after != before:
        _log.info(
            "%s changes the tokens of tokenizer.json; the changed tokenizer is written, as Hugging Face runs it",
            config.path,
        )
        text = after
    limit = config.get("model_max_length")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit >= 1):
        raise config.wrong("model_max_length", "a positive number")
    return TokenizerSpec(
        path=path,
        json=text,
        special={name: token.content for name, token in named.items()},
        model_max_length=int(limit) if limit is not None and limit < _VERY_LARGE else None,
    )


def make_vocabulary(spec: TokenizerSpec, size: int) -> Vocabulary:
    """The ggml vocabulary of ``size`` ids. ``UnsupportedError`` names what llama.cpp's BPE would do differently."""
    root = Fields.of(spec.path, json.loads(spec.json))
    _require_byte_level_bpe(root)
    model = root.object("model")
    by_id: dict[int, tuple[str, int]] = {}
    for token, number in model.object("vocab").values.items():
        if type(number) is not int or number < 0 or number in by_id:
            raise CheckpointError(f"{spec.path}: the vocabulary gives token {token!r} the id {number!r}")
        by_id[number] = (token, TokenType.NORMAL)
    added = root.get("added_tokens")
    for entry in added if isinstance(added, list) else []:
        token_fields = Fields.of(spec.path, entry)
        kind = TokenType.CONTROL if token_fields.boolean("special", False) else TokenType.USER_DEFINED
        by_id[token_fields.integer("id", 0, minimum=0)] = (token_fields.string("content", ""), kind)
    if by_id and max(by_id) >= size:
        last = max(by_id)
        raise CheckpointError(
            f"{spec.path}: token {by_id[last][0]!r} has id {last}, but the token embedding has only {size} rows"
        )
    listed = [by_id.get(number, (f"[PAD{number}]", TokenType.UNUSED)) for number in range(size)]
    ids = {token: number for number, (token, _) in by_id.items()}
    special = {
        name.removesuffix("_token"): ids[token]
        for name, token in spec.special.items()
        if token in ids and name not in ("bos_token", "eos_token")
    }
    bos, eos = _around_every_text(spec)
    if bos is not None:
        special.setdefault("cls", bos)
    if eos is not None:
        special.setdefault("sep", eos)
    return Vocabulary(
        tokens=tuple(token for token, _ in listed),
        types=tuple(kind for _, kind in listed),
        merges=_merges(spec.path, model),
        bos=bos,
        eos=eos,
        special=special,
    )


def _load(path: Path, text: str) -> Tokenizer:
    try:
        tokenizer: Tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{path} cannot be read as a tokenizer: {error}") from error
    return tokenizer


def _declared_tokens(
    folder: Path, config: Fields, tokenizer: Tokenizer
) -> tuple[dict[str, AddedToken], list[AddedToken]]:
    """The named special tokens and the further ones, in transformers' order."""
    values = dict(config.values)
    if "added_tokens_decoder" not in values:
        values.update(Fields.read_optional(folder / "special_tokens_map.json").values)
        known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        legacy = Fields.read_optional(folder / "added_tokens.json")
        for token in legacy.values:
            if token not in known:
                raise UnsupportedError(f"{legacy.path}: token {token!r} is not in tokenizer.json")
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
    return named, [_token(config, "extra_special_tokens", token) for token in [*own, *extra]]


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


def _add_missing(
    tokenizer: Tokenizer, config: Fields, named: Mapping[str, AddedToken], extra: list[AddedToken]
) -> None:
    decoder = config.object("added_tokens_decoder").values
    if not all(number.isdecimal() for number in decoder):
        raise config.wrong("added_tokens_decoder", "an object of tokens by id")
    # all of the decoder's tokens: one that tokenizer.json has already takes the flags that are given here
    tokens = [_token(config, "added_tokens_decoder", decoder[number]) for number in sorted(decoder, key=int)]
    present = {token.content for token in tokenizer.get_added_tokens_decoder().values()} | {t.content for t in tokens}
    for token in [*named.values(), *extra]:
        if token.content not in present:
            present.add(token.content)
            tokens.append(token)
    names = {token.content for token in named.values()}
    for token in tokens:
        token.special = token.special or token.content in names
    tokenizer.add_tokens(tokens)


def _around_every_text(spec: TokenizerSpec) -> tuple[int | None, int | None]:
    """The ids that the post-processor puts before and after a text."""
    tokenizer = _load(spec.path, spec.json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    body = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a").ids
    for before in (0, 1):
        if whole[before : before + len(body)] == body and len(whole) - len(body) - before in (0, 1):
            after = before + len(body)
            return (whole[0] if before else None, whole[after] if after < len(whole) else None)
    raise UnsupportedError(f"{spec.path}: a post-processor that gives {whole} for the text {body} cannot be converted")


def _require_byte_level_bpe(root: Fields) -> None:
    model = root.object("model")
    kind = model.string("type", "BPE" if model.get("merges") is not None else "of no type")
    if kind != "BPE":
        raise UnsupportedError(f"{root.path}: a {kind} tokenizer cannot be converted, only byte-level BPE can")
    for option in ("byte_fallback", "ignore_merges", "dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise UnsupportedError(f"{root.path}: BPE with {option}={model.get(option)!r} cannot be converted")
    steps = _steps(root, "pre_tokenizer", "pretokenizers")
    names = [step.string("type", "of no type") for step in steps]
    if names != ["ByteLevel"]:
        raise UnsupportedError(
            f"{root.path}: pre-tokenizer {' + '.join(names) or 'none'} cannot be converted, only ByteLevel"
        )
    if steps[0].boolean("add_prefix_space", True) or not steps[0].boolean("use_regex", True):
        raise UnsupportedError(f"{root.path}: pre-tokenizer ByteLevel with add_prefix_space or without its regex")
    for step in _steps(root, "normalizer", "normalizers"):
        if step.string("type", "of no type") != "NFC":
            raise UnsupportedError(f"{root.path}: normalizer {step.get('type')} cannot be converted, only NFC")


def _steps(root: Fields, key: str, inner: str) -> list[Fields]:
    step = root.object(key)
    if step.get("type") != "Sequence":
        return [step] if step.values else []
    items = step.get(inner)
    return [Fields.of(root.path, item) for item in items] if isinstance(items, list) else []


def _merges(path: Path, model: Fields) -> tuple[str, ...]:
    merges = []
    listed = model.get("merges")
    for item in listed if isinstance(listed, list) else []:
        pair = item.split(" ") if isinstance(item, str) else item
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(p, str) and p and " " not in p for p in pair)
        ):
            raise CheckpointError(f"{path}: {item!r} is not a merge of two tokens")
        merges.append(" ".join(pair))
    if not merges:  # llama.cpp refuses a BPE vocabulary without any
        raise CheckpointError(f"{path}: the BPE model has no merges")
    return tuple(merges)

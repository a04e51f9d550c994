"""The vocabulary that llama.cpp's own tokenizer reads, made of a tokenizer.json where llama.cpp has its type.

Beside the embedded tokenizer.json, which decides what this package computes, it lets the same file run in stock
llama.cpp. A tokenizer of no type that llama.cpp has gets no vocabulary (``none``): stock llama.cpp then takes token ids
only, and never gives wrong ones. docs/tokenizers.md says how often the others differ.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from modernbert_llama.errors import CheckpointError
from modernbert_llama.hf_tokenizer import TokenizerSpec, load_tokenizer
from modernbert_llama.jsonfile import Fields
from modernbert_llama.tokenizer_form import PROBES, SPACE, TokenizerForm, read_form

__all__ = ["TokenType", "Vocabulary", "make_vocabulary"]

_UNUSED_SCORE = -10000.0


class TokenType:
    """llama.cpp's token types."""

    NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


@dataclass(frozen=True)
class Vocabulary:
    """``tokens``, ``types`` and ``scores`` by id, one for each row of the token embedding, in the terms of
    ``tokenizer.ggml``; all empty where ``model`` is ``none``, for the reason ``why_none``."""

    model: str
    pre: str | None = None
    tokens: tuple[str, ...] = ()
    types: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()
    charsmap: bytes = b""
    flags: Mapping[str, bool] = field(default_factory=dict)  # add_space_prefix and its like
    bos: int | None = None  # put before every text
    eos: int | None = None  # put after every text
    add_sep: bool = False  # a pair has special["sep"] between eos and the second text
    special: Mapping[str, int] = field(default_factory=dict)  # unk, sep, pad, cls, mask: those that exist
    strip: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # "left", "right": tokens that eat spaces
    why_none: str | None = None


class _NoEquivalentError(Exception):
    """What llama.cpp's tokenizers do not do."""


@dataclass
class _Tokens:
    """The tokens by id, with what every kind of vocabulary needs to know of them."""

    by_id: dict[int, tuple[str, int]]  # text, type
    scores: dict[int, float]
    added: frozenset[int]

    def texts(self, size: int) -> list[str]:
        """One text a row, no two the same: llama.cpp asserts that."""
        taken = {text for text, _ in self.by_id.values()}
        result = []
        for number in range(size):
            text = self.by_id[number][0] if number in self.by_id else f"[PAD{number}]"
            while number not in self.by_id and text in taken:
                text += "_"
            result.append(text)
        return result

    def keep_whole(self, texts: frozenset[str]) -> None:
        for number, (text, kind) in self.by_id.items():
            if text in texts and kind == TokenType.NORMAL:
                self.by_id[number] = (text, TokenType.USER_DEFINED)

    def types(self, size: int) -> list[int]:
        return [self.by_id[number][1] if number in self.by_id else TokenType.UNUSED for number in range(size)]


def make_vocabulary(spec: TokenizerSpec, size: int) -> Vocabulary:
    """The ggml vocabulary of ``size`` ids. Raises ``CheckpointError`` for tokens beyond ``size`` or given twice."""
    form = read_form(Fields.of(spec.path, json.loads(spec.json)))
    tokens = _read_tokens(form)
    whole, form = form.kept_whole()
    tokens.keep_whole(whole)  # llama.cpp splits at such tokens by their type
    if tokens.by_id and max(tokens.by_id) >= size:
        last = max(tokens.by_id)
        raise CheckpointError(
            f"{spec.path}: token {tokens.by_id[last][0]!r} has id {last}, but the token embedding has only {size} rows"
        )
    ids = {text: number for number, (text, _) in tokens.by_id.items()}
    special = {
        name.removesuffix("_token"): ids[token]
        for name, token in spec.special.items()
        if token in ids and name not in ("bos_token", "eos_token")
    }
    seen = _around(spec)
    around = seen or _Around((), (), ())
    bos, eos = (side[0] if len(side) == 1 else None for side in (around.before, around.after))
    if bos is not None:
        special.setdefault("cls", bos)
    if eos is not None:
        special.setdefault("sep", eos)
    add_sep = eos is not None and len(around.between) == 2 and around.between[0] == eos
    if add_sep:  # <s> A </s><s> B </s>: what stands beside eos between two texts
        special["sep"] = around.between[1]
    common = {"bos": bos, "eos": eos, "add_sep": add_sep, "special": special, "strip": _strips(form)}
    try:
        if seen is None:
            raise _NoEquivalentError(f"none of {', '.join(PROBES)} gives a token that shows the template")
        if len(around.before) > 1 or len(around.after) > 1:
            raise _NoEquivalentError("the template has more than one token before or after a text")
        kinds = {"BPE": _bpe, "Unigram": _unigram, "WordPiece": _word_piece}
        if form.kind not in kinds:
            raise _NoEquivalentError(f"llama.cpp has no {form.kind} vocabulary")
        if form.kind == "WordPiece" and (bos is None or eos is None):
            raise _NoEquivalentError("llama.cpp puts a token before and after every text of a WordPiece vocabulary")
        made = kinds[form.kind](form, tokens, size)
    except _NoEquivalentError as reason:
        return Vocabulary("none", why_none=str(reason), **common)  # type: ignore[arg-type]
    return Vocabulary(**{**made, **common})  # type: ignore[arg-type]


# --- tokens and template ----------------------------------------------------------------------------------------------


def _read_tokens(form: TokenizerForm) -> _Tokens:
    path, vocab = form.root.path, form.model.get("vocab")
    by_id: dict[int, tuple[str, int]] = {}
    scores: dict[int, float] = {}
    if isinstance(vocab, list):  # Unigram: [token, log probability] by id
        unknown = form.model.optional_integer("unk_id", minimum=0)
        for number, entry in enumerate(vocab):
            if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
                raise CheckpointError(f"{path}: {entry!r} is not a token and its score")
            by_id[number] = (entry[0], TokenType.UNKNOWN if number == unknown else TokenType.NORMAL)
            scores[number] = float(entry[1])
    else:
        for token, value in form.model.object("vocab").values.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 0 or value in by_id:
                raise CheckpointError(f"{path}: the vocabulary gives token {token!r} the id {value!r}")
            by_id[value] = (token, TokenType.NORMAL)
    if form.byte_fallback:
        bytes_ = {f"<0x{byte:02X}>" for byte in range(256)}
        by_id |= {number: (text, TokenType.BYTE) for number, (text, _) in by_id.items() if text in bytes_}
    added = set()
    for entry in form.added:
        kind = TokenType.CONTROL if entry.boolean("special", False) else TokenType.USER_DEFINED
        number = entry.integer("id", 0, minimum=0)
        if by_id.get(number, ("", 0))[1] != TokenType.UNKNOWN:
            by_id[number] = (entry.string("content", ""), kind)
        added.add(number)
    return _Tokens(by_id, scores, frozenset(added))


def _strips(form: TokenizerForm) -> dict[str, tuple[int, ...]]:
    return {
        side: tuple(e.integer("id", 0, minimum=0) for e in form.added if e.boolean(f"{side[0]}strip", False))
        for side in ("left", "right")
    }


@dataclass(frozen=True)
class _Around:
    """The ids that the post-processor puts before, between and after texts."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]


def _around(spec: TokenizerSpec) -> _Around | None:
    tokenizer = load_tokenizer(spec.path, spec.json)
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def parts(text: str, second: str | None = None) -> list[tuple[int | None, tuple[int, ...]]]:
        """The ids in runs of one owner: text 0, text 1, or None for special tokens."""
        found = tokenizer.encode(text, second)
        groups = itertools.groupby(zip(found.sequence_ids, found.ids, strict=True), key=lambda item: item[0])
        return [(owner, tuple(number for _, number in group)) for owner, group in groups]

    for probe in PROBES:
        single, pair = parts(probe), parts(probe, probe)
        if any(owner == 0 for owner, _ in single):
            between = [run for (last, _), (owner, run) in itertools.pairwise(pair) if last == 0 and owner is None]
            return _Around(
                before=single[0][1] if single[0][0] is None else (),
                between=between[0] if between else (),
                after=single[-1][1] if single[-1][0] is None else (),
            )
    return None


# --- BPE --------------------------------------------------------------------------------------------------------------


def _bpe(form: TokenizerForm, tokens: _Tokens, size: int) -> dict[str, object]:
    for option in ("continuing_subword_prefix", "end_of_word_suffix"):
        if form.model.get(option):
            raise _NoEquivalentError(f"llama.cpp has no BPE with {option}")
    merges = _merges(form)
    if not merges:
        raise _NoEquivalentError("the BPE model has no merges")
    listed = [" ".join(pair) for pair in merges]
    if form.byte_level:
        if any(" " in token for pair in merges for token in pair):
            raise CheckpointError(f"{form.root.path}: a merge of tokens that hold a space, in a byte-level BPE")
        pre = _pre_tokenizer(form)
        return _plain("gpt2", pre, tokens, size, merges=listed, flags=_composed(form))
    bare = _metaspace(form)
    if not form.byte_fallback or not _has_all_bytes(tokens):
        raise _NoEquivalentError("llama.cpp has no BPE of characters without a token for every byte")
    if bare:
        if any(" " in token for pair in merges for token in pair):
            raise _NoEquivalentError("the merges hold spaces, which llama.cpp writes as U+2581")
        # BPE over the raw text; unlike "gemma4" it takes runs of newlines by the merges and forces no bos
        return _plain("gpt2", "sarvam-moe", tokens, size, merges=listed, flags=_composed(form))
    tokens.scores |= _spm_scores(merges, tokens)
    flags = {**_composed(form), "add_space_prefix": True}
    return _plain("llama", "default", tokens, size, scores=_scores(tokens, size), flags=flags)


def _pre_tokenizer(form: TokenizerForm) -> str:
    """llama.cpp's name of the split: found by its regular expression and by whether the merges decide always."""
    split = form.split()
    if split is None:
        raise _NoEquivalentError("llama.cpp has no byte-level BPE that puts a space before the text")
    pre = split.pre_ignoring_merges if form.model.boolean("ignore_merges", False) else split.pre
    other = split.best or split.pre or split.pre_ignoring_merges
    # the other name gives the same ids where every token is what the merges make of it
    if pre != other and (pre is None or split.best is not None) and not _merges_matter(form):
        pre = other
    if pre is None:
        raise _NoEquivalentError(f"llama.cpp has no pre-tokenizer for {form.describe()}")
    return pre


def _plain(model: str, pre: str, tokens: _Tokens, size: int, **more: object) -> dict[str, object]:
    return {"model": model, "pre": pre, "tokens": tuple(tokens.texts(size)), "types": tuple(tokens.types(size))} | {
        key: tuple(value) if isinstance(value, list) else value for key, value in more.items()
    }


def _composed(form: TokenizerForm) -> dict[str, bool]:
    """Whether the text is brought to NFC; any other change of letters has no equivalent."""
    kept = [name for name in form.normalizer_names if name not in ("Replace", "Prepend")]
    if not set(kept) <= {"NFC"}:
        raise _NoEquivalentError(f"llama.cpp does not normalise by {' + '.join(kept)}")
    return {"normalizer.nfc": True} if kept else {}


def _merges(form: TokenizerForm) -> list[list[str]]:
    listed = form.model.get("merges")
    found = []
    for item in listed if isinstance(listed, list) else []:
        pair = item.split(" ") if isinstance(item, str) else item
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(p, str) and p for p in pair):
            raise CheckpointError(f"{form.root.path}: {item!r} is not a merge of two tokens")
        found.append(pair)
    return found


def _merges_matter(form: TokenizerForm) -> bool:
    """Whether the merges make anything but itself of any token: then ``ignore_merges`` decides ids."""
    model = {**form.model.values, "ignore_merges": False}
    bare = load_tokenizer(form.root.path, json.dumps({"version": "1.0", "model": model, "added_tokens": []}))
    added = {entry.get("content") for entry in form.added}
    words = [token for token in form.model.object("vocab").values if token not in added]
    return any(len(encoding.ids) != 1 for encoding in bare.encode_batch(words))


def _metaspace(form: TokenizerForm) -> bool:
    """True for a BPE over the whole text with U+2581 for spaces; False if a space is put before the text as well."""
    replaced = prefixed = False
    for step in form.normalizers:
        name = step.string("type", "")
        if name == "Prepend" and step.get("prepend") == SPACE and not replaced:
            prefixed = True
        elif name == "Replace" and step.get("content") == SPACE and step.object("pattern").get("String") == " ":
            replaced = True
        elif name != "NFC":
            raise _NoEquivalentError(f"llama.cpp does not normalise by {name}")
    for step in form.pre_tokenizers:
        name = step.string("type", "")
        if name == "Metaspace" and step.get("replacement") == SPACE and not step.boolean("split", True):
            replaced, prefixed = True, prefixed or step.string("prepend_scheme", "always") != "never"
        elif not (name == "Split" and replaced and step.object("pattern").get("String") == " "):
            # no space is left to split at once they are replaced
            raise _NoEquivalentError(f"llama.cpp has no pre-tokenizer {name} for a BPE of characters")
    if not replaced:
        raise _NoEquivalentError("llama.cpp has no BPE of characters that leaves spaces as they are")
    return not prefixed


def _has_all_bytes(tokens: _Tokens) -> bool:
    return sum(kind == TokenType.BYTE for _, kind in tokens.by_id.values()) == 256


def _spm_scores(merges: list[list[str]], tokens: _Tokens) -> dict[int, float]:
    """Scores that make SentencePiece's BPE choose as the merges do.

    It joins any two pieces that make a token, the best-scored first: the merges must hold every such pair, all of one
    token beside each other.
    """
    ids = {text: number for number, (text, _) in tokens.by_id.items()}
    scores: dict[int, float] = {}
    last = None
    for rank, (left, right) in enumerate(merges):
        token = left + right
        if token != last and (token not in ids or ids[token] in scores):
            raise _NoEquivalentError("the order of the merges is not one of tokens, which llama.cpp's SPM needs")
        scores[ids[token]] = scores[ids[token]] if token == last else -float(rank + 1)
        last = token
    pairs = {(left, right) for left, right in merges}
    for number, (text, kind) in tokens.by_id.items():
        if kind == TokenType.NORMAL and number not in tokens.added:
            for cut in range(1, len(text)):
                left, right = text[:cut], text[cut:]
                if left in ids and right in ids and (left, right) not in pairs:
                    raise _NoEquivalentError(
                        f"no merge makes {text!r} of {left!r} and {right!r}; llama.cpp's SPM would"
                    )
    return scores


# --- Unigram and WordPiece --------------------------------------------------------------------------------------------


def _scores(tokens: _Tokens, size: int) -> list[float]:
    return [tokens.scores.get(n, 0.0) if n in tokens.by_id else _UNUSED_SCORE for n in range(size)]


# how transformers (5.24 and later) spells what llama.cpp's unigram tokenizer does by itself where its flags say so: no
# spaces at the ends, and a space put before a text that has one already
_AS_LLAMA_CPP = {(r"\A +| +\z", ""), (rf"\A{SPACE}", SPACE * 2)}


def _unigram(form: TokenizerForm, tokens: _Tokens, size: int) -> dict[str, object]:
    if form.model.get("unk_id") is None:
        raise _NoEquivalentError("llama.cpp has no unigram vocabulary without an unknown token")
    charsmap, merged, prefixed, written = b"", False, False, False
    flags = {}
    for step in form.normalizers:
        name, pattern = step.string("type", ""), step.object("pattern")
        if name == "Precompiled":
            charsmap = _charsmap(step)
        elif name == "Replace" and pattern.get("String") == " " and step.get("content") == SPACE:
            written = True
        elif name == "Replace" and pattern.get("Regex") == " {2,}" and step.get("content") in (" ", SPACE):
            merged = True
        elif name == "Prepend" and step.get("prepend") == SPACE:
            prefixed = True
        elif (pattern.get("Regex"), step.get("content")) in _AS_LLAMA_CPP:
            pass
        elif name == "NFC":
            flags["normalizer.nfc"] = True
        elif name != "Strip":
            raise _NoEquivalentError(f"llama.cpp does not normalise by {name}")
    for step in form.pre_tokenizers:
        name = step.string("type", "")
        if name == "WhitespaceSplit":
            merged = True
        elif name == "Metaspace" and step.get("replacement") == SPACE:
            written, prefixed = True, prefixed or step.string("prepend_scheme", "always") != "never"
        else:
            raise _NoEquivalentError(f"llama.cpp has no pre-tokenizer {name} for a unigram vocabulary")
    if not written:
        raise _NoEquivalentError("llama.cpp has no unigram vocabulary that leaves spaces as they are")
    flags |= {"add_space_prefix": prefixed, "remove_extra_whitespaces": merged}
    return _plain("t5", "default", tokens, size, scores=_scores(tokens, size), charsmap=charsmap, flags=flags)


def _charsmap(step: Fields) -> bytes:
    try:
        return base64.b64decode(step.string("precompiled_charsmap", ""), validate=True)
    except binascii.Error as error:
        raise CheckpointError(f"{step.path}: precompiled_charsmap is not base64: {error}") from error


def _word_piece(form: TokenizerForm, tokens: _Tokens, size: int) -> dict[str, object]:
    if form.normalizer_names != ["BertNormalizer"] or form.pre_tokenizer_names != ["BertPreTokenizer"]:
        raise _NoEquivalentError("llama.cpp has only BERT's own normaliser and pre-tokenizer for WordPiece")
    normalizer, prefix = form.normalizers[0], form.model.string("continuing_subword_prefix", "##")
    if not normalizer.boolean("clean_text", True) or not normalizer.boolean("handle_chinese_chars", True):
        raise _NoEquivalentError("llama.cpp always cleans a WordPiece text and sets Chinese characters apart")
    lower = normalizer.boolean("lowercase", True)
    accents = normalizer.get("strip_accents")
    for number, (text, kind) in tokens.by_id.items():
        if kind == TokenType.NORMAL and number not in tokens.added:
            inner = text.startswith(prefix) and text != prefix
            tokens.by_id[number] = (text.removeprefix(prefix) if inner else SPACE + text, kind)
    if len({text for text, _ in tokens.by_id.values()}) != len(tokens.by_id):
        raise _NoEquivalentError("two tokens are one as llama.cpp writes WordPiece")
    stripped = lower if accents is None else bool(accents)
    flags = {"normalizer.lowercase": lower, "normalizer.strip_accents": stripped}
    return _plain("bert", "default", tokens, size, flags=flags)

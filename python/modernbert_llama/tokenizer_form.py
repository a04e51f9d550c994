"""What kind of tokenizer a tokenizer.json holds: its model, its normalisers, how it splits a text."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from modernbert_llama.jsonfile import Fields

__all__ = ["PROBES", "SPACE", "Split", "TokenizerForm", "read_form"]

SPACE: Final = "\u2581"  # what SentencePiece writes for a space
# texts to read off what stands around a text: some tokenizers give no token at all for one or the other
PROBES: Final = ("a", "0", ".", "\u3042", "\u4e00", "\u0430")

_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_REST: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Split:
    """A way to cut a text into words before BPE runs on each.

    ``pre`` and ``pre_ignoring_merges`` are llama.cpp's names of the same regular expression, for a vocabulary whose
    merges decide always, or not where a whole word is a token; None where it has no such combination. ``best`` is the
    one of the two whose expression comes nearer to the real one.
    """

    name: str
    pre: str | None
    pre_ignoring_merges: str | None
    best: str | None = None


# the expressions of llama.cpp's pre-tokenizers as tokenizer.json spells them; a spelling is compared without its
# redundant parentheses and escapes
_SPLITS: Final = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": Split("GPT-2", "modern-bert", None),
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_REST}": Split(
        "GPT-4o", "gpt-4o", "granite-embed-multi-97m", best="granite-embed-multi-97m"
    ),
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}": Split("Llama 3", "dbrx", "llama-bpe"),
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}": Split("Qwen 2", "qwen2", None),
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_REST}": Split("Qwen 3.5", "qwen35", None),
}
_GPT_2: Final = next(iter(_SPLITS.values()))
_DIGITS: Final = Split("GPT-2 and single digits", "starcoder", None)
_OWN: Final = Split("its own", None, None)


@dataclass(frozen=True)
class TokenizerForm:
    """A tokenizer.json taken apart: Sequences are flattened, ``null`` is an empty tuple."""

    root: Fields
    kind: str  # the model: BPE, Unigram, WordPiece, WordLevel
    model: Fields
    normalizers: tuple[Fields, ...]
    pre_tokenizers: tuple[Fields, ...]
    added: tuple[Fields, ...]

    @property
    def normalizer_names(self) -> list[str]:
        return [_name(step) for step in self.normalizers]

    @property
    def pre_tokenizer_names(self) -> list[str]:
        return [_name(step) for step in self.pre_tokenizers]

    @property
    def byte_fallback(self) -> bool:
        """A character without a token becomes the tokens of its bytes, ``<0x00>`` to ``<0xFF>``."""
        return self.model.boolean("byte_fallback", False)

    @property
    def byte_level(self) -> bool:
        """The tokens are written in the 256 characters that stand for bytes."""
        return "ByteLevel" in self.pre_tokenizer_names

    @property
    def metaspace(self) -> bool:
        """Spaces are written as U+2581."""
        replaced = any(_name(s) == "Replace" and s.get("content") == SPACE for s in self.normalizers)
        return replaced or "Metaspace" in self.pre_tokenizer_names

    def kept_whole(self) -> tuple[frozenset[str], TokenizerForm]:
        """The tokens that a pre-tokenizer sets apart by their spelling, and the form without it. So does transformers
        (5.24 and later) write the user-defined pieces of a SentencePiece model."""
        known = _listed(self.model.get("vocab"))
        whole: set[str] = set()
        others = []
        for step in self.pre_tokenizers:
            texts = _set_apart(step)
            if texts and texts <= known:
                whole |= texts
            else:
                others.append(step)
        return frozenset(whole), replace(self, pre_tokenizers=tuple(others))

    def split(self) -> Split | None:
        """How a byte-level BPE splits; None where it is no byte-level BPE of words that keep their spaces."""
        names = self.pre_tokenizer_names
        last = self.pre_tokenizers[-1] if names else self.root
        if self.kind != "BPE" or not names or names[-1] != "ByteLevel" or last.boolean("add_prefix_space", True):
            return None
        by_itself = last.boolean("use_regex", True)
        if len(names) == 1:
            return _GPT_2 if by_itself else _OWN
        first = self.pre_tokenizers[0]
        if names == ["Digits", "ByteLevel"]:
            return _DIGITS if by_itself and first.boolean("individual_digits", False) else _OWN
        if names != ["Split", "ByteLevel"] or by_itself:
            return _OWN
        inverted = first.boolean("invert", False)
        if first.string("behavior", "") != ("Removed" if inverted else "Isolated"):
            return _OWN
        return _KNOWN.get(_spelled_plainly(first.object("pattern").string("Regex", "")), _OWN)

    def describe(self) -> str:
        """The kind in a few words: ``byte-level BPE, GPT-4o split, NFC``."""
        words = {"Unigram": "SentencePiece unigram"}.get(self.kind, self.kind)
        split = self.split() if self.byte_level else None
        if self.kind == "BPE":
            words = f"{'byte-level' if self.byte_level else 'metaspace' if self.metaspace else 'plain'} BPE"
        parts = [f"{words} with byte fallback" if self.byte_fallback else words]
        if split is not None:
            parts.append(f"{split.name} split" if split is not _OWN else "a split of its own")
        return ", ".join([*parts, *_described(self.normalizers)])


def read_form(root: Fields) -> TokenizerForm:
    """The form of a whole tokenizer.json. Raises ``CheckpointError`` for a part of the wrong type."""
    model = root.object("model")
    kind = model.string("type", "")
    if not kind:  # files from before the key: as the library guesses
        kind = (
            "BPE" if model.get("merges") is not None else "Unigram" if model.get("unk_id") is not None else "WordPiece"
        )
    added = root.get("added_tokens")
    return TokenizerForm(
        root=root,
        kind=kind,
        model=model,
        normalizers=tuple(_steps(root, "normalizer", "normalizers")),
        pre_tokenizers=tuple(_steps(root, "pre_tokenizer", "pretokenizers")),
        added=tuple(Fields.of(root.path, token) for token in added) if isinstance(added, list) else (),
    )


def _steps(parent: Fields, key: str, inner: str) -> list[Fields]:
    step = parent.object(key)
    return _flat(step, inner) if step.values else []


def _flat(step: Fields, inner: str) -> list[Fields]:
    if step.get("type") != "Sequence":
        return [step]
    items = step.get(inner)
    found = []
    for item in items if isinstance(items, list) else []:
        found += _flat(Fields.of(step.path, item), inner)
    return found


def _name(step: Fields) -> str:
    return step.string("type", "of no type")


def _described(normalizers: tuple[Fields, ...]) -> list[str]:
    """The normalisers that change more than spaces."""
    words = []
    for step in normalizers:
        name = _name(step)
        if name == "BertNormalizer":
            lower = step.boolean("lowercase", True)
            accents = step.get("strip_accents")
            words += ["Lowercase"] * lower + ["StripAccents"] * bool(lower if accents is None else accents)
        elif name not in ("Replace", "Prepend", "Strip"):
            words.append(name)
    return words


def _set_apart(step: Fields) -> set[str]:
    """The texts that a Split isolates, if its expression is a list of texts; else none."""
    regex = step.object("pattern").string("Regex", "")
    if not regex or step.string("behavior", "") != "Isolated" or step.boolean("invert", False):
        return set()
    found = [_literal(part) for part in regex.split("|")]
    return set() if None in found else {text for text in found if text is not None}


def _literal(regex: str) -> str | None:
    """The one text that a regular expression without operators matches, or None where it has operators."""
    text = re.sub(r"\\(\W)", r"\1", regex)
    return text if text and not re.search(r"\\|[.^$*+?()\[\]{}]", re.sub(r"\\\W", "", regex)) else None


def _listed(vocab: object) -> set[str]:
    """The tokens of a model: an object of ids, or Unigram's list of tokens with scores."""
    if isinstance(vocab, list):
        return {entry[0] for entry in vocab if isinstance(entry, list) and entry and isinstance(entry[0], str)}
    return set(vocab) if isinstance(vocab, dict) else set()


def _spelled_plainly(regex: str) -> str:
    """One spelling of the expressions that tokenizers write in several ways of the same meaning."""
    # possessive where the next part cannot match what the class before it matches
    for possessive, greedy in (("]?+", "]?"), ("]++", "]+")):
        regex = regex.replace(possessive, greedy)
    regex = regex.replace(r"'(?i:[sdmt]|ll|ve|re)", _CONTRACTIONS)
    regex = regex.replace(r"'(?:[sdmt]|ll|ve|re)", "'s|'t|'re|'ve|'m|'ll|'d")
    return re.sub(r"\\(['/])", r"\1", regex)


_KNOWN: Final = {_spelled_plainly(regex): split for regex, split in _SPLITS.items()}

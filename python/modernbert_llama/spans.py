"""Scores of tokens -> spans of characters, by the rules of transformers' token-classification pipeline.

Everything here is arithmetic on what the model and the tokenizer gave; ``token_classifier`` asks them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from modernbert_llama.errors import InputError

__all__ = ["Aggregation", "Span", "TokenScores", "aggregate", "check_aggregation", "merge_windows"]

Aggregation = Literal["none", "simple", "first", "average", "max"]
Join = Callable[[list[str]], str]  # tokens -> the text that they stand for


class _Span(TypedDict):
    label: str
    score: float
    word: str
    start: int
    end: int


class Span(_Span, total=False):
    """A stretch of a text with one label: ``text[start:end]``, in characters.

    ``word`` is what the tokens of the span stand for, or one token as it is spelled with aggregation "none"; only then
    there is ``index``, the position of the token.
    """

    index: int


@dataclass(frozen=True)
class TokenScores:
    """A token that is not special, with the probabilities of the labels."""

    word: str
    scores: NDArray[np.float64]  # (n_labels,)
    start: int
    end: int
    index: int
    is_subword: bool  # goes on with the word of the token before


@dataclass(frozen=True)
class _Labelled:
    """A token or a word with the label that it was given, prefix included."""

    label: str
    score: float
    word: str
    start: int
    end: int
    index: int = 0


def check_aggregation(name: str) -> None:
    """Raises ``InputError`` for a strategy that there is not."""
    if name not in get_args(Aggregation):
        raise InputError(f"aggregation is {name!r}, expected {', '.join(get_args(Aggregation))}")


def aggregate(
    tokens: Sequence[TokenScores], labels: Sequence[str], aggregation: Aggregation, ignore: Collection[str], join: Join
) -> list[Span]:
    """The spans of one window, in the order of the text, without those whose label is to be ignored."""
    if aggregation in ("none", "simple"):
        labelled = [_best(token, labels) for token in tokens]
    else:
        labelled = [_word(word, labels, aggregation, join) for word in _words(tokens)]
    if aggregation == "none":
        spans = [
            Span(
                label=item.label,
                score=item.score,
                word=item.word,
                start=item.start,
                end=item.end,
                index=item.index,
            )
            for item in labelled
        ]
    else:
        spans = [_span(group, join) for group in _groups(labelled)]
    return [span for span in spans if span["label"] not in ignore]


def merge_windows(spans: Sequence[Span]) -> list[Span]:
    """The spans of overlapping windows as one list: of two that overlap the longer stays, or the surer one."""
    if not spans:
        return []
    in_order = sorted(spans, key=lambda span: span["start"])
    merged, kept = [], in_order[0]
    for span in in_order:  # the first too, as in the pipeline: it stands twice if it has no characters
        if kept["start"] <= span["start"] < kept["end"]:
            longer = (span["end"] - span["start"]) - (kept["end"] - kept["start"])
            if longer > 0 or (longer == 0 and span["score"] > kept["score"]):
                kept = span
        else:
            merged.append(kept)
            kept = span
    return [*merged, kept]


def _best(token: TokenScores, labels: Sequence[str]) -> _Labelled:
    best = int(token.scores.argmax())
    return _Labelled(labels[best], float(token.scores[best]), token.word, token.start, token.end, token.index)


def _words(tokens: Sequence[TokenScores]) -> list[list[TokenScores]]:
    words: list[list[TokenScores]] = []
    for token in tokens:
        if words and token.is_subword:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _word(tokens: list[TokenScores], labels: Sequence[str], aggregation: Aggregation, join: Join) -> _Labelled:
    """A word with one label: its first token's, that of the mean scores, or its surest token's."""
    if aggregation == "first":
        scores = tokens[0].scores
    elif aggregation == "max":
        scores = max(tokens, key=lambda token: float(token.scores.max())).scores
    else:
        scores = np.mean([token.scores for token in tokens], axis=0)
    best = int(scores.argmax())
    word = join([token.word for token in tokens])
    return _Labelled(labels[best], float(scores[best]), word, tokens[0].start, tokens[-1].end)


def _groups(items: Sequence[_Labelled]) -> list[list[_Labelled]]:
    """Neighbours with one tag; a B- label opens a group, and a label without a prefix goes on with it."""
    groups: list[list[_Labelled]] = []
    for item in items:
        begins, tag = _tag(item.label)
        if groups and not begins and tag == _tag(groups[-1][-1].label)[1]:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _tag(label: str) -> tuple[bool, str]:
    """Whether a label begins a group, and the label without its prefix."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _span(group: list[_Labelled], join: Join) -> Span:
    return Span(
        # as the pipeline: everything behind the first hyphen, also of a label with another prefix than B- and I-
        label=group[0].label.split("-", 1)[-1],
        score=float(np.mean([item.score for item in group])),
        word=join([item.word for item in group]),
        start=group[0].start,
        end=group[-1].end,
    )

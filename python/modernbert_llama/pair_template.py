"""How a tokenizer puts two texts together, and how Hugging Face cuts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["FIRST", "SECOND", "PairTemplate", "longest_first"]

FIRST, SECOND = -1, -2  # stand for the tokens of a text


@dataclass(frozen=True)
class PairTemplate:
    """What a tokenizer makes of a pair: ids of special tokens, with ``FIRST`` and ``SECOND`` between them."""

    parts: tuple[int, ...]
    cut_left: bool  # whether texts are cut at their beginning

    @property
    def n_special(self) -> int:
        return sum(part >= 0 for part in self.parts)

    @classmethod
    def of(cls, ids: Sequence[int], sequences: Sequence[int | None], *, cut_left: bool) -> PairTemplate:
        """Read off a pair that is encoded: for each of its ``ids`` the text that it is of, or None."""
        parts: list[int] = []
        for token, sequence in zip(ids, sequences, strict=True):
            part = token if sequence is None else (FIRST, SECOND)[sequence]
            if part >= 0 or parts[-1:] != [part]:
                parts.append(part)
        return cls(tuple(parts), cut_left)

    def join(self, first: list[int], second: list[int]) -> list[int]:
        ids: list[int] = []
        for part in self.parts:
            ids += first if part == FIRST else second if part == SECOND else [part]
        return ids

    def cut(self, ids: list[int], n: int) -> list[int]:
        return ids[len(ids) - n :] if self.cut_left else ids[:n]


def longest_first(n_first: int, n_second: int, limit: int) -> tuple[int, int]:
    """How many tokens of each text stay so that both have at most ``limit``: the longer one gives way first.

    The rule of the ``tokenizers`` library: the shorter text is whole if it takes at most half, else each has half, and
    the longer one the odd token.
    """
    if n_first + n_second <= limit:
        return n_first, n_second
    short = min(n_first, n_second)
    half = limit // 2
    kept = (short, limit - short) if short <= half else (half, limit - half)
    return kept if n_first <= n_second else kept[::-1]

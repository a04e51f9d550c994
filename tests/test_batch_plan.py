"""The batch planner is pure: lengths and limits in, index lists out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modernbert_llama.errors import InputError
from modernbert_llama.native import batch_plan


@pytest.mark.parametrize(
    ("lengths", "n_tokens_max", "n_seqs_max", "expected"),
    [
        ([], 10, 4, []),
        ([3], 10, 4, [[0]]),
        ([10], 10, 4, [[0]]),
        # over the budget: a batch of its own
        ([11], 10, 4, [[0]]),
        ([11, 12], 10, 4, [[1], [0]]),
        # longest first, so that buffers grow once; equal lengths keep their order
        ([2, 5, 5], 10, 4, [[1, 2], [0]]),
        ([1, 9, 1, 9], 10, 4, [[1], [3, 0], [2]]),
        # the limit on texts
        ([1, 1, 1, 1, 1], 10, 2, [[0, 1], [2, 3], [4]]),
        # the budget exactly
        ([4, 6], 10, 4, [[1, 0]]),
        ([4, 7], 10, 4, [[1], [0]]),
        # a sum that a 32-bit integer cannot hold
        ([2**31 - 1, 2**31 - 1], 2**31 - 1, 4, [[0], [1]]),
    ],
)
def test_table(lengths: list[int], n_tokens_max: int, n_seqs_max: int, expected: list[list[int]]) -> None:
    assert batch_plan(lengths, n_tokens_max, n_seqs_max) == expected


@given(st.lists(st.integers(1, 700), max_size=300), st.integers(1, 600), st.integers(1, 256))
def test_every_text_once_and_within_the_limits(lengths: list[int], n_tokens_max: int, n_seqs_max: int) -> None:
    plan = batch_plan(lengths, n_tokens_max, n_seqs_max)
    assert sorted(i for batch in plan for i in batch) == list(range(len(lengths)))
    for batch in plan:
        assert 1 <= len(batch) <= n_seqs_max
        assert len(batch) == 1 or sum(lengths[i] for i in batch) <= n_tokens_max


@pytest.mark.parametrize(("lengths", "limits"), [([1], (0, 1)), ([1], (1, 0)), ([0], (4, 4)), ([-1], (4, 4))])
def test_bad_arguments(lengths: list[int], limits: tuple[int, int]) -> None:
    with pytest.raises((InputError, ValueError)):
        batch_plan(lengths, *limits)

"""Tokens behind a text that attend to it while nothing attends to them: ColBERT's [MASK] expansion of queries."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from models import gguf, scratch
from modernbert_llama.errors import InputError
from modernbert_llama.native import Engine
from numpy.typing import NDArray

LENGTHS, UNSEEN = (8, 3, 40, 1, 200, 20), (24, 29, 60, 31, 0, 9)
MASK = 4

EMBED = """
import sys
import numpy as np
from modernbert_llama.native import Engine
data = np.load(sys.argv[2])
ids = [row.tolist() for row in np.split(data["ids"], np.cumsum(data["lengths"])[:-1])]
np.save(sys.argv[3], Engine(sys.argv[1], n_threads=1).embed(ids, "none", None, 0, data["unseen"].tolist()))
"""


def texts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(5, 250, n).tolist() for n in LENGTHS]


def expanded() -> list[list[int]]:
    return [ids + [MASK] * n for ids, n in zip(texts(), UNSEEN, strict=True)]


def rows(vectors: NDArray[np.float32], ids: list[list[int]]) -> list[NDArray[np.float32]]:
    return np.split(vectors, np.cumsum([len(item) for item in ids])[:-1])


@pytest.mark.parametrize("name", ["window32", "every2"])
def test_the_text_is_as_without_them(name: str) -> None:
    engine = Engine(str(gguf(name)), n_threads=1)
    alone = rows(engine.embed(texts(), "none"), texts())
    together = rows(engine.embed(expanded(), "none", None, 0, UNSEEN), expanded())
    seen = rows(engine.embed(expanded(), "none"), expanded())
    for a, b, c, n in zip(alone, together, seen, UNSEEN, strict=True):
        np.testing.assert_allclose(b[: len(a)], a, rtol=1e-5, atol=1e-5)
        assert (n > 0) == (not np.allclose(c[: len(a)], a, rtol=1e-3, atol=1e-3))
        assert np.isfinite(b).all()


def test_each_is_alone_with_the_text() -> None:
    """One of them, at its place, gives what all of them give there."""
    engine = Engine(str(gguf("every2")), n_threads=1)
    ids = texts()[0]
    many = engine.embed([ids + [MASK] * 5], "none", None, 0, [5])
    other = engine.embed([[*ids, MASK, 7, 8, 9, 10]], "none", None, 0, [5])
    np.testing.assert_allclose(many[: len(ids) + 1], other[: len(ids) + 1], rtol=1e-5, atol=1e-5)
    assert not np.allclose(many[len(ids) + 1], other[len(ids) + 1], atol=1e-2)


@pytest.mark.parametrize("name", ["window32", "every2"])
def test_dense_masks_say_the_same(name: str) -> None:
    file, source, target = gguf(name), scratch() / "unseen.npz", scratch() / "unseen.npy"
    np.savez(source, ids=np.concatenate(expanded()), lengths=[len(ids) for ids in expanded()], unseen=UNSEEN)
    found = []
    for dense in ("0", "1"):
        environment = os.environ | {"LLAMA_ATTN_DENSE": dense}
        command = [sys.executable, "-c", EMBED, str(file), str(source), str(target)]
        subprocess.run(command, check=True, env=environment, timeout=300)
        found.append(np.load(target))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=2e-5)


def test_more_texts_than_sequences() -> None:
    engine = Engine(str(gguf("tiny")), n_threads=1, n_batch=4096)
    ids = [[5 + i % 200, 6, MASK, MASK] for i in range(600)]
    together = engine.embed(ids, "none", None, 0, [2] * 600).reshape(600, 4, -1)
    for i in (0, 127, 128, 599):
        np.testing.assert_allclose(together[i], engine.embed([ids[i]], "none", None, 0, [2]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unseen", [[1], [-1, 0], [2, 0], [0, 9]])
def test_numbers_that_do_not_fit(unseen: list[int]) -> None:
    engine = Engine(str(gguf("tiny")), n_threads=1)
    with pytest.raises(InputError, match="n_unseen"):
        engine.embed([[5, 6], [7, 8]], "none", None, 0, unseen)

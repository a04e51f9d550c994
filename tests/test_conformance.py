"""Every embedding row of the family's models, and every pipeline, small: equal to sentence-transformers in float64.

The tests of golden vectors need no torch; the live ones build the folder anew with transformers and
sentence-transformers and ask them here and now. Every bar is relative to what sentence-transformers itself loses in
the same type on the same text, as in test_parity_golden.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
from family import MODELS, ROWS, TEXTS, Row, encodings, golden, rebuild
from models import scratch
from modernbert_llama import Embedder, convert
from modernbert_llama.describe import describe
from numpy.typing import NDArray
from specs import cosine_distance, relative_error

OutType = Literal["f32", "bf16", "q8_0"]
F32_FACTOR = 10  # times sentence-transformers' own float32 error
Q8_0_BAR = 1e-3

Encode = Callable[..., NDArray[Any]]
ROW = pytest.mark.parametrize("name", ROWS)
OUTTYPE = pytest.mark.parametrize("outtype", get_args(OutType))


@functools.cache
def folder(name: str) -> Path:
    return rebuild(ROWS[name], scratch() / "family" / name.replace(" ", "_"))


@functools.lru_cache(maxsize=2)
def embedder(source: Path, name: str, outtype: OutType) -> Embedder:
    file = convert(source, scratch() / f"family-{name.replace(' ', '_')}.gguf", outtype=outtype, show_progress=False)
    # sentence-transformers pools a bare checkpoint by the mean, whatever config.json says
    return Embedder(file, pooling="mean" if ROWS[name].bare else None)


def worst_ratio(
    ours: NDArray[Any], exact: NDArray[Any], outtype: OutType, own: dict[str, NDArray[Any]]
) -> tuple[float, float]:
    """The largest error over the texts, and the largest share of its bar. ``own``: sentence-transformers' errors."""
    assert ours.shape == exact.shape
    errors, shares = [], []
    for i, (a, b) in enumerate(zip(ours, exact, strict=True)):
        error = relative_error(a, b) if outtype == "f32" else cosine_distance(a, b)
        bar = {"f32": F32_FACTOR * own["float32"][i], "bf16": own["bfloat16"][i], "q8_0": Q8_0_BAR}[outtype]
        errors.append(error)
        shares.append(error / bar)
    return max(errors), max(shares)


def measure(row: Row, outtype: OutType) -> tuple[float, float]:
    """As ``worst_ratio``, over all encodings of a row, against its golden vectors."""
    model = embedder(folder(row.name), row.name, outtype)
    found = golden(row)
    results = []
    for name, options in encodings(row):
        own = {precision: found[f"{name}-{precision}"] for precision in ("float32", "bfloat16")}
        results.append(worst_ratio(model.embed(TEXTS, **options), found[name], outtype, own))
    return max(error for error, _ in results), max(share for _, share in results)


@ROW
@OUTTYPE
@pytest.mark.filterwarnings("ignore::modernbert_llama.errors.TruncationWarning")
def test_equals_sentence_transformers(name: str, outtype: OutType) -> None:
    error, share = measure(ROWS[name], outtype)
    assert share <= 1, f"error {error:.1e} is {share:.1f} times its bar"


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.matryoshka])
def test_matryoshka_dimensions_are_normalised_anew(name: str) -> None:
    row = ROWS[name]
    exact, own = golden(row)["plain"], golden(row)["plain-float32"]
    model = embedder(folder(name), name, "f32")
    for dim in row.matryoshka:
        cut = exact[:, :dim] / np.linalg.norm(exact[:, :dim], axis=1, keepdims=True)
        ours = model.embed(TEXTS, dimensions=dim)
        # what is cut away takes its share of the error with it, or not
        assert max(map(relative_error, ours, cut)) <= 3 * F32_FACTOR * own.max()
        np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, rtol=1e-6)


@ROW
def test_inspect_names_the_kind_and_the_modules(name: str) -> None:
    row = ROWS[name]
    file = convert(folder(name), scratch() / "inspected.gguf", outtype="q8_0", show_progress=False)
    facts = {(section, key): value for section, key, value in describe(file).facts}
    one = "masked language model; embeds too" if row.masked_lm else "text embedding: one vector a text"
    assert facts["pipeline", "kind"] == one
    assert facts["tokenizer", "kind"]
    shown = [module.partition("(")[0] for module in facts["pipeline", "modules"].split(" -> ")]
    behind = [module if isinstance(module, str) else "Dense" for module in row.behind]
    assert shown[1:] == behind
    names = {"mean_sqrt_len_tokens": "mean_sqrt_len", "lasttoken": "last"}
    if not row.bare:
        assert sorted(shown[0].removesuffix(" pooling").split("+")) == sorted(names.get(x, x) for x in row.pooling)


def test_every_model_of_the_table_is_here() -> None:
    assert len(MODELS) == 25
    kinds = {row.tokenizer for row in MODELS}
    assert kinds == {"standard", "gpt-4o", "granite-311m", "mmbert", "ruri"}


# --- live -------------------------------------------------------------------------------------------------------------


@pytest.mark.live
@pytest.mark.filterwarnings("default")  # torch's warnings are not ours to answer for
@ROW
def test_equals_sentence_transformers_here_and_now(name: str) -> None:
    pytest.importorskip("sentence_transformers")
    from make_family import build
    from modernbert_llama.precision import PRECISIONS
    from modernbert_llama.reference import SentenceReference

    row = ROWS[name]
    source = build(row, scratch() / "family-live" / name.replace(" ", "_"))
    exact, single = SentenceReference(source), SentenceReference(source, "float32")
    half = SentenceReference(source, "bfloat16")
    plain = {}
    for outtype in get_args(OutType):
        model = embedder(source, name, outtype)
        for encoding, options in encodings(row):
            expected = exact.encode(TEXTS, **options)
            own = {
                "float32": np.array([*map(relative_error, single.encode(TEXTS, **options), expected)]),
                "bfloat16": np.array([*map(cosine_distance, half.encode(TEXTS, **options), expected)]),
            }
            error, share = worst_ratio(model.embed(TEXTS, **options), expected, outtype, own)
            assert share <= 1, f"{outtype}, {encoding}: error {error:.1e} is {share:.1f} times its bar"
        plain[outtype] = model.embed(TEXTS)

    theirs = single.model
    model = embedder(source, name, "f32")
    assert model.dim == theirs.get_embedding_dimension()
    assert model.max_length == theirs.max_seq_length
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(
            model.similarity(plain["f32"][:2], plain["f32"]),
            theirs.similarity(plain["f32"][:2], plain["f32"]).numpy(),
            rtol=1e-5,
            atol=1e-5,
        )
    for dim in row.matryoshka:
        expected = exact.encode(TEXTS, truncate_dim=dim, normalize_embeddings=True)
        assert max(map(relative_error, model.embed(TEXTS, dimensions=dim), expected)) < 1e-5
    from sentence_transformers import quantize_embeddings as theirs_quantize

    for precision in PRECISIONS:
        np.testing.assert_array_equal(
            model.embed(TEXTS, precision=precision), theirs_quantize(plain["f32"], precision=precision)
        )
    for task, encode in (("query", theirs.encode_query), ("document", theirs.encode_document)):
        expected = encode(list(TEXTS), convert_to_numpy=True)
        assert max(map(relative_error, model.embed(TEXTS, prompt_name=task), expected)) < 1e-5

"""Ours against transformers, layer by layer: at every named point of the graph, and at the output.

Needs the ``compare`` extra. The reference is transformers in float64; what transformers' own float32 loses against it
at the same point sets the scale by which a point departs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from modernbert_llama.errors import InputError
from modernbert_llama.reference import Reference, pool, reference_ids, require_extra

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modernbert_llama.embedder import Embedder

__all__ = ["Comparison", "Point", "compare", "plot", "render"]

DEFAULT_TEXTS: Final = (
    "The river rises in the hills and runs through the valley to the sea.",
    "naïve café [MASK]  日本語 😀",
    # longer than half the usual window, without which a local layer sees what a global one sees
    " ".join(f"Sentence number {i} makes the text longer than the window of the local layers." for i in range(16)),
)


@dataclass(frozen=True)
class _Tolerance:
    """A point departs above ``floor``, and above ``factor`` times transformers' float32 error there."""

    name: str
    floor: float
    factor: float


# by general.file_type; a half-precision or quantised file errs by its own rounding unit over float32's, 2^-24
_TOLERANCES: Final = {
    0: _Tolerance("f32", 1e-5, 30.0),
    1: _Tolerance("f16", 1e-3, 3.0 * 2**13),
    32: _Tolerance("bf16", 1e-2, 3.0 * 2**16),
    7: _Tolerance("q8_0", 2e-2, 3.0 * 2**17),
}
_OUTPUT: Final = "output"


@dataclass(frozen=True)
class Point:
    """One place of the graph, the worst over the texts.

    ``name`` is llama.cpp's ("Kcur-3"), or "output" for the pooled embedding before normalisation; ``layer`` is None
    outside the layers. ``cosine`` is of the whole activation as one vector, ``largest`` the largest difference,
    ``relative`` the L2 norm of the difference over the reference's, ``reference_float32`` the same of
    transformers' own float32, ``threshold`` the ``relative`` above which the point departs.
    """

    name: str
    layer: int | None
    cosine: float
    largest: float
    relative: float
    reference_float32: float
    threshold: float

    @property
    def departs(self) -> bool:
        """Whether the difference is more than rounding (also when it is not a number)."""
        return not self.relative <= self.threshold


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found; ``points`` are in the order of computation, the output is not among them."""

    checkpoint: str
    model: str
    file_type: str
    pooling: str
    texts: tuple[str, ...]
    token_counts: tuple[int, ...]
    token_mismatches: tuple[int, ...]  # indices of texts whose ids differ from Hugging Face's
    points: tuple[Point, ...]
    output: Point

    @property
    def first_departure(self) -> Point | None:
        """The first point that departs, or None."""
        return next((point for point in (*self.points, self.output) if point.departs), None)

    @property
    def first_layer(self) -> int | None:
        """The layer of the first departing point; None if nothing departs, or it departs outside the layers."""
        first = self.first_departure
        return None if first is None else first.layer

    @property
    def agrees(self) -> bool:
        """Token ids identical and nothing departs."""
        return self.first_departure is None and not self.token_mismatches


def compare(checkpoint: Path | str, model: Path | str | None = None, texts: Sequence[str] | None = None) -> Comparison:
    """Run ``texts`` through ``model`` and through transformers on ``checkpoint``, and compare every point of the graph.

    ``checkpoint`` is a folder or a hub id, ``model`` a GGUF file of it (None converts it to f32). Both sides
    get Hugging Face's token ids, cut to the model's ``max_length``. ``texts`` None uses short ones and one longer than
    the local window. Raises :class:`MissingExtraError` without torch or transformers, :class:`InputError` for no texts.
    """
    require_extra("torch", "transformers")
    from modernbert_llama.embedder import Embedder

    chosen = DEFAULT_TEXTS if texts is None else tuple(texts)
    if not chosen:
        raise InputError("no texts to compare")
    engine = Embedder(str(checkpoint), dtype="f32") if model is None else Embedder(str(model))
    tolerance = _tolerance(engine.metadata)
    ids = reference_ids(checkpoint, chosen)
    mismatches = tuple(i for i, text in enumerate(chosen) if list(engine.tokenize(text)) != ids[i])
    ids = [_cut(row, engine.max_length) for row in ids]

    exact, single = Reference(checkpoint, "float64"), Reference(checkpoint, "float32")
    worst: dict[str, Point] = {}
    for row in ids:
        for point in _points(engine, exact, single, row, tolerance):
            known = worst.get(point.name)
            worst[point.name] = point if known is None else _worse(known, point)
    output = worst.pop(_OUTPUT)
    return Comparison(
        checkpoint=str(checkpoint),
        model=str(model) if model is not None else f"{checkpoint} (converted)",
        file_type=tolerance.name,
        pooling=engine.pooling,
        texts=chosen,
        token_counts=tuple(len(row) for row in ids),
        token_mismatches=mismatches,
        points=tuple(worst.values()),
        output=output,
    )


def _tolerance(metadata: Mapping[str, object]) -> _Tolerance:
    file_type = metadata.get("general.file_type", 0)
    if not isinstance(file_type, int) or file_type not in _TOLERANCES:
        raise InputError(f"general.file_type {file_type}: only f32, f16, bf16 and q8_0 files can be compared")
    return _TOLERANCES[file_type]


def _cut(ids: list[int], limit: int) -> list[int]:
    """Keep the closing [SEP] when cutting, as the Embedder does."""
    return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]


def _points(
    engine: Embedder, exact: Reference, single: Reference, ids: list[int], tolerance: _Tolerance
) -> list[Point]:
    """The points of one text that both sides name, then the output."""
    ours: dict[str, NDArray[Any]] = dict(engine.activations(ids))
    reference: dict[str, NDArray[Any]] = dict(exact.activations(ids))
    float32: dict[str, NDArray[Any]] = dict(single.activations(ids))
    ours[_OUTPUT] = engine.embed_tokens([ids], normalize=False)[0]
    for side in (reference, float32):
        output = pool(side["final_norm_out"], engine.pooling)[None]
        for step in engine.info.steps:
            output = step(output)
        side[_OUTPUT] = output[0, : engine.dim]
    return [_measure(name, ours[name], reference[name], float32[name], tolerance) for name in reference if name in ours]


def _measure(
    name: str, ours: NDArray[Any], reference: NDArray[Any], float32: NDArray[Any], tolerance: _Tolerance
) -> Point:
    if ours.size != reference.size:
        cosine, largest, relative = math.nan, math.inf, math.inf
    else:
        a, b = ours.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        cosine = float(a @ b) / norms if norms else math.nan
        largest = float(np.abs(a - b).max())
        relative = _relative(a, b)
    own = _relative(float32, reference)
    suffix = name.rpartition("-")[2]
    return Point(
        name=name,
        layer=int(suffix) if suffix.isdigit() and name != "inp_norm-0" else None,
        cosine=cosine,
        largest=largest,
        relative=relative,
        reference_float32=own,
        threshold=max(tolerance.floor, tolerance.factor * own),
    )


def _relative(a: NDArray[Any], b: NDArray[Any]) -> float:
    norm = float(np.linalg.norm(b))
    return float(np.linalg.norm(a - b)) / norm if norm else math.inf


def _worse(a: Point, b: Point) -> Point:
    """The one nearer to, or further beyond, its threshold; not-a-number is worst."""
    return max((a, b), key=lambda point: math.inf if math.isnan(point.relative) else point.relative / point.threshold)


# --- showing it -------------------------------------------------------------------------------------------------------


def _rows(comparison: Comparison) -> list[tuple[str, Point]]:
    """One row a layer (its last point, or its first departing one), and what lies before and after the layers."""
    rows: dict[str, Point] = {}
    for point in comparison.points:
        label = point.name if point.layer is None else f"layer {point.layer}"
        known = rows.get(label)
        if known is None or not known.departs:
            rows[label] = point
    rows[_OUTPUT] = comparison.output
    return list(rows.items())


def render(comparison: Comparison) -> str:
    """The comparison as a text table, the verdict last; if a layer departs, the points of that layer one by one."""
    lines = [
        f"model       {comparison.model} ({comparison.file_type}, pooling {comparison.pooling})",
        f"reference   transformers in float64, {comparison.checkpoint}",
        f"texts       {len(comparison.texts)}, of {', '.join(map(str, comparison.token_counts))} tokens",
        "",
        *_table([(label, point) for label, point in _rows(comparison)]),
        "",
    ]
    lines += [f"token ids of text {i} differ from Hugging Face's" for i in comparison.token_mismatches]
    first = comparison.first_departure
    if first is None:
        lines.append("nothing departs: every point is within the rounding of the file's type")
    elif first.layer is None:
        lines.append(f"first departure: {first.name} (relative error {first.relative:.1e})")
    else:
        inside = [(point.name, point) for point in comparison.points if point.layer == first.layer]
        lines += _table(inside)
        lines += ["", f"first departure: layer {first.layer}, at {first.name} (relative error {first.relative:.1e})"]
    return "\n".join(lines) + "\n"


def _table(rows: list[tuple[str, Point]]) -> list[str]:
    header = f"{'':14s} {'point':14s} {'1 - cosine':>10s} {'largest diff':>12s} {'rel. error':>10s} {'hf float32':>10s}"
    body = [
        f"{label:14s} {point.name:14s} {max(1 - point.cosine, 0.0):10.1e} {point.largest:12.1e} {point.relative:10.1e} "
        f"{point.reference_float32:10.1e}{'  <- departs' if point.departs else ''}"
        for label, point in rows
    ]
    return [header.rstrip(), *body]


def plot(comparison: Comparison, path: Path | str) -> None:
    """Draw the relative error per layer, ours, transformers' own float32 and the threshold, into an image file."""
    require_extra("matplotlib")
    from matplotlib.figure import Figure

    rows = _rows(comparison)
    places = range(len(rows))
    figure = Figure(figsize=(max(6.0, 0.35 * len(rows)), 4.5), layout="constrained")
    axes = figure.subplots()
    tiny = 1e-9  # a logarithmic axis has no zero, and the embedding rows are exact
    for label, style, values in (
        (f"modernbert-llama {comparison.file_type}", "o-", [point.relative for _, point in rows]),
        ("transformers float32", "s--", [point.reference_float32 for _, point in rows]),
        ("threshold", ":", [point.threshold for _, point in rows]),
    ):
        axes.semilogy(places, [max(value, tiny) for value in values], style, label=label, markersize=4)
    first = comparison.first_departure
    for place, (label, point) in enumerate(rows):
        if point is first:
            axes.axvline(place, color="red", alpha=0.4, label=f"first departure: {label}, {point.name}")
    axes.set_xticks(list(places), [label.removeprefix("layer ") for label, _ in rows], rotation=90)
    axes.set_xlabel("layer")
    axes.set_ylabel("relative L2 error")
    axes.legend()
    figure.savefig(path, dpi=120)

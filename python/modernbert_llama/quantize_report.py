"""What quantising costs: vectors and rankings of quantised files against those of the file they were made from.

Needs the ``report`` extra.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from modernbert_llama.describe import file_type_name
from modernbert_llama.errors import ConversionError, InputError, MissingExtraError
from modernbert_llama.report_texts import builtin_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modernbert_llama.embedder import Embedder

__all__ = ["Measured", "Report", "measure", "read_lines", "render", "write"]

TOP: Final = 10
_EVERY: Final = 4  # of a file of texts, the first of every four is a query
_SPEED_TOKENS: Final = 1024  # of one turn
_ROUNDS: Final = 5


@dataclass(frozen=True)
class Measured:
    """One file against the reference.

    ``cosine_*`` are over all vectors, ``top_overlap`` the share of the reference's first ``top`` documents of a
    query that are among the file's own first, ``kendall_tau`` Kendall's tau-b of the scores of all documents for a
    query, both means over the queries; ``tokens_per_second`` is the median over rounds in which all files take turns.
    """

    path: Path
    type: str
    size: int
    cosine_mean: float
    cosine_min: float
    top_overlap: float
    kendall_tau: float
    tokens_per_second: float


@dataclass(frozen=True)
class Report:
    """The reference is the first of ``files``; ``top`` is 10, or less where there are few documents."""

    n_queries: int
    n_documents: int
    n_tokens: int
    top: int
    n_threads: int
    files: tuple[Measured, ...]


def measure(
    reference: str | os.PathLike[str],
    files: Sequence[str | os.PathLike[str]],
    *,
    texts: Sequence[str] | None = None,
    n_threads: int | None = None,
) -> Report:
    """Compares ``files`` with ``reference``, the file they were quantised from.

    The first of every four ``texts`` is a query, the others are documents; None takes a built-in set of 32 and 160.
    Both are embedded with the model's own prompts for them. Raises ``InputError`` for fewer than 8 texts or files that
    do not belong together, ``MissingExtraError`` without scipy, and what :class:`Embedder` raises.
    """
    kendalltau = _kendalltau()
    from modernbert_llama.embedder import Embedder
    from modernbert_llama.threads import default_threads

    queries, documents = builtin_texts() if texts is None else _split(texts)
    n_threads = default_threads() if n_threads is None else n_threads
    paths = [Path(path) for path in (reference, *files)]
    models = [Embedder(path, n_threads=n_threads) for path in paths]
    for path, model in zip(paths, models, strict=True):
        if (model.dim, model.pooling) != (models[0].dim, models[0].pooling):
            raise InputError(f"{path} was not made from {paths[0]}: it has another pooling or width")
    top = min(TOP, len(documents) // 2)
    exact_queries, exact_documents = _embed(models[0], queries, documents)
    exact = models[0].similarity(exact_queries, exact_documents)
    rates, n_tokens = _speed(models, [*queries, *documents])
    measured = []
    for path, model, rate in zip(paths, models, rates, strict=True):
        found_queries, found_documents = _embed(model, queries, documents)
        scores = model.similarity(found_queries, found_documents)
        cosines = np.concatenate([_cosines(exact_queries, found_queries), _cosines(exact_documents, found_documents)])
        measured.append(
            Measured(
                path=path,
                type=file_type_name(model.metadata.get("general.file_type")),
                size=path.stat().st_size,
                cosine_mean=float(cosines.mean()),
                cosine_min=float(cosines.min()),
                top_overlap=_overlap(exact, scores, top),
                kendall_tau=float(np.mean([kendalltau(a, b).statistic for a, b in zip(exact, scores, strict=True)])),
                tokens_per_second=rate,
            )
        )
    return Report(len(queries), len(documents), n_tokens, top, n_threads, tuple(measured))


def read_lines(path: Path) -> list[str]:
    """The texts of a file, one a line; empty lines are left out."""
    try:
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from error


def _split(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    if len(texts) < 2 * _EVERY:
        raise InputError(
            f"{len(texts)} texts are too few to rank documents: give {2 * _EVERY} at least, better hundreds"
        )
    return list(texts[::_EVERY]), [text for i, text in enumerate(texts) if i % _EVERY]


def _embed(
    model: Embedder, queries: Sequence[str], documents: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return model.embed(queries, prompt_name="query"), model.embed(documents, prompt_name="document")


def _cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """1 less half the squared distance of the unit vectors: exact near 1."""
    x, y = (v.astype(np.float64) / np.linalg.norm(v.astype(np.float64), axis=1, keepdims=True) for v in (a, b))
    cosines: NDArray[np.float64] = 1 - np.sum((x - y) ** 2, axis=1) / 2
    return cosines


def _overlap(exact: NDArray[np.float32], found: NDArray[np.float32], top: int) -> float:
    first = (np.argsort(-scores, axis=1, kind="stable")[:, :top] for scores in (exact, found))
    return float(np.mean([len(set(a) & set(b)) / top for a, b in zip(*first, strict=True)]))


def _speed(models: Sequence[Embedder], texts: Sequence[str]) -> tuple[list[float], int]:
    """Tokens a second of each model on the same ids; one text after the other to the model until a turn is full."""
    ids: list[list[int]] = []
    n_tokens = 0
    for row in map(models[0].tokenize, texts):
        ids.append(row[: models[0].max_length])
        n_tokens += len(ids[-1])
        if n_tokens >= _SPEED_TOKENS:
            break
    seconds: list[list[float]] = [[] for _ in models]
    for i in range(_ROUNDS + 1):
        for model, found in zip(models, seconds, strict=True):
            start = time.perf_counter()
            model.embed_tokens(ids)
            if i:  # the first round warms up
                found.append(time.perf_counter() - start)
    return [n_tokens / statistics.median(found) for found in seconds], n_tokens


def render(report: Report) -> str:
    """The report as a text table."""
    header = ("type", "MB", "1-cos, mean", "1-cos, largest", f"top-{report.top} overlap", "Kendall tau", "tokens/s")
    rows = [header]
    rows += [
        (
            item.type,
            f"{item.size / 1e6:.1f}",
            f"{1 - item.cosine_mean:.1e}",
            f"{1 - item.cosine_min:.1e}",
            f"{item.top_overlap:.3f}",
            f"{item.kendall_tau:.4f}",
            f"{item.tokens_per_second:.0f}",
        )
        for item in report.files
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.append(
        f"{report.n_queries} queries, {report.n_documents} documents; speed on {report.n_tokens} tokens, "
        f"{report.n_threads} threads, {_ROUNDS} rounds by turns"
    )
    return "\n".join(lines)


def write(report: Report, folder: Path) -> list[Path]:
    """Writes ``report.csv``, ``report.json`` and ``report.png`` into ``folder``, which is made if need be.

    Raises ``MissingExtraError`` without matplotlib, ``ConversionError`` where they cannot be written.
    """
    figure_class = _figure()
    rows = [dataclasses.asdict(item) | {"path": str(item.path)} for item in report.files]
    paths = [folder / f"report.{kind}" for kind in ("csv", "json", "png")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with paths[0].open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        content = dataclasses.asdict(report) | {"files": rows}
        paths[1].write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        figure = figure_class(figsize=(11, 4.5), layout="constrained")
        _draw(report, figure)
        figure.savefig(paths[2], dpi=120)
    except OSError as error:
        raise ConversionError(f"cannot write the report to {folder}: {error.strerror or error}") from error
    return paths


def _draw(report: Report, figure: Any) -> None:
    left, right = figure.subplots(1, 2)
    tiny = 1e-9  # a logarithmic axis has no zero
    quantised = report.files[1:]
    for item in quantised:
        mean, largest = max(1 - item.cosine_mean, tiny), max(1 - item.cosine_min, tiny)
        left.plot([item.size / 1e6] * 2, [mean, largest], "-o", markersize=4)
        left.annotate(item.type, (item.size / 1e6, mean), textcoords="offset points", xytext=(5, -3), fontsize=8)
    left.set_yscale("log")
    left.set_xlabel("size, MB")
    left.set_ylabel("1 - cosine, mean and largest")
    places = range(len(report.files))
    right.barh(places, [item.tokens_per_second for item in report.files])
    right.set_yticks(list(places), [item.type for item in report.files])
    right.invert_yaxis()
    right.set_xlabel(f"tokens a second, {report.n_threads} threads")


def _kendalltau() -> Any:
    try:
        from scipy.stats import kendalltau
    except ImportError as error:
        raise _missing("scipy") from error
    return kendalltau


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise _missing("matplotlib") from error
    return Figure


def _missing(name: str) -> MissingExtraError:
    return MissingExtraError(f"{name} not installed; the report needs it: pip install 'modernbert-llama[report]'")

"""What was found as tables of text, as CSV, and as a picture."""

from __future__ import annotations

import csv
import platform
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.peak import reachable
from benchmarks.programs.versions import STOCK_VERSION
from benchmarks.runner import Measurement, Result
from benchmarks.shapes import batch_flops, head_flops
from benchmarks.workloads import Workload

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["machine", "plot", "render", "render_tasks", "write_csv"]

_PRECISIONS: Final = ("f32", "bf16", "int8")
_COLOURS: Final = {
    "ours": "tab:red",
    "openvino": "tab:blue",
    "onnxruntime": "tab:green",
    "transformers": "tab:orange",
    "stock": "tab:purple",
}
_STYLES: Final = {"f32": ":", "bf16": "--", "int8": "-"}
_MARKS: Final = {"f32": "s", "bf16": "^", "int8": "o"}


def machine(n_threads: int) -> str:
    """Processor, date, versions: what a figure means nothing without."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    packages = ("openvino", "nncf", "onnxruntime", "torch", "transformers", "sentence-transformers")
    versions = [f"llama-cpp-python {STOCK_VERSION}", *(f"{package} {_version(package)}" for package in packages)]
    today = datetime.now(timezone.utc).date().isoformat()
    return f"{today}, {name}, {n_threads} threads\n{', '.join(versions)}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


# --- numbers ----------------------------------------------------------------------------------------------------------


def _n_tokens(result: Result, workload: Workload) -> int:
    return result.n_text_tokens.get(workload.name, workload.rows * workload.length)


def _speed(result: Result, measurement: Measurement, workload: Workload) -> float | None:
    """Tokens a second."""
    seconds = measurement.median(workload)
    return None if seconds is None else _n_tokens(result, workload) / seconds


def _ceiling(result: Result, precision: str, workload: Workload) -> float | None:
    """Tokens a second if nothing but the model's multiplications took time, and these ran at the machine's peak."""
    peak = reachable(result.peak, precision)
    if peak is None or not workload.length or workload.is_task:
        return None
    tokens = workload.rows * workload.length
    return peak * 1e9 * tokens / batch_flops(result.files.spec, workload.rows, workload.length)


def _share(result: Result, measurement: Measurement, workload: Workload) -> float | None:
    speed = _speed(result, measurement, workload)
    ceiling = _ceiling(result, measurement.spec.precision, workload)
    return None if speed is None or ceiling is None else speed / ceiling


# --- text -------------------------------------------------------------------------------------------------------------


def render(result: Result) -> str:
    """All tables of one shape, in Markdown."""
    workloads = result.plan.workloads
    batches = [workload for workload in workloads if workload.kind == "batch"]
    others = [workload for workload in workloads if workload.kind in ("texts", "packing")]
    query = next(workload for workload in workloads if workload.kind == "query")
    peak = ", ".join(
        f"{precision} {result.peak[precision]:.0f}" for precision in _PRECISIONS if precision in result.peak
    )
    spec = result.files.spec
    length = result.plan.memory_length
    parts = [
        f"## {spec.name}: {spec.n_layer} layers, {spec.hidden} wide, vocabulary of {spec.vocab_size}\n",
        f"Peak of the machine, 10^9 operations a second: {peak or 'not measured'}.\n",
        _table(result, "tokens/s", batches, lambda m, w: _number(_speed(result, m, w)), [*_ceilings(result, batches)]),
        _table(result, "share of the machine's peak", batches, lambda m, w: _percent(_share(result, m, w))),
        _table(result, "tokens/s", others, lambda m, w: _number(_speed(result, m, w))) if others else "",
        _starts(result, query, length),
        _table(
            result,
            f"1 - cosine to {result.reference}",
            [query, *batches, *others],
            lambda m, w: _small(m.distance.get(w.name)),
        ),
        _ratios(result, [*batches, *others]),
    ]
    failed = [f"- {m.spec.name}: {why}" for m in result.measurements for why in m.failures()]
    if failed:
        parts.append("Not measured, or not to the end:\n\n" + "\n".join(failed) + "\n")
    return "\n".join(filter(None, parts))


def render_tasks(results: Sequence[Result]) -> str:
    """The tasks of one shape beside embedding, in one table each of speed, of closeness and of ours over the best."""
    names = list(dict.fromkeys(m.spec.name for result in results for m in result.measurements))
    works = [(result, result.plan.workloads[0]) for result in results]
    found = {(w.name, m.spec.name): m for result, w in works for m in result.measurements}

    def table(
        title: str, cell: Callable[[Result, Measurement, Workload], str], more: Sequence[Sequence[str]] = ()
    ) -> str:
        rows = [
            [name, *(cell(result, found[w.name, name], w) if (w.name, name) in found else "" for result, w in works)]
            for name in names
        ]
        return _markdown([title, *(w.name for _, w in works)], [*(row for row in rows if any(row[1:])), *more])

    def over_best(result: Result, m: Measurement, w: Workload) -> str:
        if m.spec.family != "ours":
            return ""
        peers = [p for p in result.measurements if p.spec.family != "ours" and p.spec.precision == m.spec.precision]
        return _over(result, m, peers, w, named=True)

    def texts_a_second(_: Result, m: Measurement, w: Workload) -> str:
        seconds = m.median(w)
        return "" if seconds is None else f"{w.rows / seconds:.2f}"

    ceilings = [
        [f"peak {precision}", *(_task_ceiling(result, precision, w) for result, w in works)]
        for precision in _PRECISIONS
    ]
    failed = [f"- {w.name}, {m.spec.name}: {why}" for r, w in works for m in r.measurements for why in m.failures()]
    parts = [
        f"## {results[0].files.spec.name}: other heads, texts of {results[0].plan.workloads[0].length} tokens\n",
        table("texts/s", texts_a_second, [row for row in ceilings if any(row[1:])]),
        table(f"1 - cosine to {results[0].reference}", lambda _, m, w: _small(m.distance.get(w.name))),
        table("ratio to the best peer", over_best),
    ]
    if failed:
        parts.append("Not measured, or not to the end:\n\n" + "\n".join(failed) + "\n")
    return "\n".join(parts)


def _task_ceiling(result: Result, precision: str, work: Workload) -> str:
    """Texts a second if all products of the model, the head's too, ran at the machine's peak and nothing else did."""
    peak = reachable(result.peak, precision)
    if peak is None:
        return ""
    spec = result.files.spec
    length = work.row_length
    flops = batch_flops(spec, 1, length) + length * head_flops(spec, result.files.task)
    return f"{peak * 1e9 / flops:.2f}"


def _table(
    result: Result,
    title: str,
    workloads: Sequence[Workload],
    cell: Callable[[Measurement, Workload], str],
    more: Sequence[Sequence[str]] = (),
) -> str:
    rows = [[m.spec.name, *(cell(m, w) for w in workloads)] for m in result.measurements]
    return _markdown([title, *(w.name for w in workloads)], [*(row for row in rows if any(row[1:])), *more])


def _ceilings(result: Result, workloads: Sequence[Workload]) -> Iterator[list[str]]:
    for precision in _PRECISIONS:
        if precision in result.peak:
            yield [f"peak {precision}", *(_number(_ceiling(result, precision, w)) for w in workloads)]


def _starts(result: Result, query: Workload, length: int) -> str:
    header = ["", f"{query.name} query, ms", "load to first vector, s", f"peak memory, 1x{length}, MB"]
    rows = []
    for m in result.measurements:
        seconds, first = m.median(query), m.start("first")
        row = [
            m.spec.name,
            "" if seconds is None else f"{1000 * seconds:.1f}",
            "" if first is None else f"{first:.3f}",
            "" if m.peak_bytes is None else f"{m.peak_bytes / 1e6:.0f}",
        ]
        rows.append(row)
    return _markdown(header, [row for row in rows if any(row[1:])])


def _ratios(result: Result, workloads: Sequence[Workload]) -> str:
    """Ours over the fastest other program of the same precision, over stock; packed over one by one."""
    rows = []
    ours = [m for m in result.measurements if m.spec.family == "ours"]
    for m in ours:
        peers = [p for p in result.measurements if p.spec.family != "ours" and p.spec.precision == m.spec.precision]
        stock = [p for p in peers if p.spec.family == "stock"]
        for title, others in ((f"{m.spec.name} / best peer", peers), (f"{m.spec.name} / stock", stock)):
            row = [_over(result, m, others, w, named=others is peers) for w in workloads if w.kind != "packing"]
            rows.append([title, *row])
        for other in ours:
            if other.spec.type == m.spec.type and other.spec.label != m.spec.label and not m.spec.label:
                row = [_over(result, m, [other], w, named=False) for w in workloads if w.kind != "packing"]
                rows.append([f"{m.spec.name} / {other.spec.name}", *row])
    names = [w.name for w in workloads if w.kind != "packing"]
    text = _markdown(["ratio", *names], [row for row in rows if any(row[1:])])
    packed = [w for w in workloads if w.kind == "packing"]
    for m in ours:
        speeds = [_speed(result, m, w) for w in packed]
        if len(speeds) == 2 and speeds[0] is not None and speeds[1] is not None:
            text += f"\n{m.spec.name}: {packed[0].name} / {packed[1].name} = {speeds[0] / speeds[1]:.2f}\n"
    return text


def _over(result: Result, mine: Measurement, others: Sequence[Measurement], workload: Workload, named: bool) -> str:
    speed = _speed(result, mine, workload)
    found = [(value, m.spec.family) for m in others if (value := _speed(result, m, workload)) is not None]
    if speed is None or not found:
        return ""
    best, family = max(found)
    return f"{speed / best:.2f}" + (f" {family}" if named else "")


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join("-" * (width + 1) + ("-" if i == 0 else ":") for i, width in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)]) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _small(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}" if value else "0"


# --- files ------------------------------------------------------------------------------------------------------------


def write_csv(results: Sequence[Result], path: Path) -> None:
    """A row a shape, program and workload; and a row for each other figure."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["shape", "program", "what", "unit", "median", "least", "most", "samples", "rows_a_call"])
        for result in results:
            for precision, value in result.peak.items():
                writer.writerow([result.files.spec.name, "machine", f"peak {precision}", "GOP/s", f"{value:.1f}"])
            for measurement in result.measurements:
                for row in _csv_rows(result, measurement):
                    writer.writerow([result.files.spec.name, measurement.spec.name, *row])


def _csv_rows(result: Result, m: Measurement) -> Iterator[list[object]]:
    for workload in result.plan.workloads:
        seconds = m.seconds.get(workload.name)
        if not seconds:
            continue
        name, tokens, at_once = workload.name, _n_tokens(result, workload), m.at_once[workload.name]
        middle = m.median(workload)
        assert middle is not None
        figures = [f"{value:.6g}" for value in (middle, min(seconds), max(seconds))]
        yield [name, "s", *figures, len(seconds), at_once]
        figures = [f"{tokens / value:.6g}" for value in (middle, max(seconds), min(seconds))]
        yield [name, "tokens/s", *figures, len(seconds), at_once]
        share = _share(result, m, workload)
        if share is not None:
            yield [name, "share of peak", f"{share:.4f}"]
        if workload.name in m.distance:
            yield [name, f"1 - cosine to {result.reference}", f"{m.distance[workload.name]:.3g}"]
    for what, title in (("load", "load"), ("first", "load to first vector")):
        values = [start[what] for start in m.starts]
        if values:
            figures = [f"{value:.4g}" for value in (m.start(what) or 0.0, min(values), max(values))]
            yield [title, "s", *figures, len(values)]
    if m.peak_bytes is not None:
        yield [f"peak memory, 1x{result.plan.memory_length}", "bytes", m.peak_bytes]


def plot(results: Sequence[Result], path: Path, caption: str) -> None:
    """Tokens a second against length: a panel a shape, a line a program, the peak as the ceiling."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0 * len(results), 6.5), layout="constrained")
    for axes, result in zip(figure.subplots(1, len(results), squeeze=False)[0], results, strict=True):
        _panel(axes, result)
    figure.suptitle(caption, fontsize="small")
    figure.savefig(path, dpi=120)


def _panel(axes: Axes, result: Result) -> None:
    batches = [workload for workload in result.plan.workloads if workload.kind == "batch"]
    for m in result.measurements:
        points = [(w.length, speed) for w in batches if (speed := _speed(result, m, w)) is not None]
        if points:
            colour = _COLOURS[m.spec.family] if not m.spec.label else None
            precision = m.spec.precision
            axes.plot(
                *zip(*points, strict=True),
                color=colour,
                linestyle=_STYLES[precision],
                marker=_MARKS[precision],
                markersize=4,
                linewidth=2.2 if m.spec.family == "ours" else 1.2,
                label=m.spec.name,
            )
    for precision in _PRECISIONS:
        points = [(w.length, top) for w in batches if (top := _ceiling(result, precision, w)) is not None]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                color="0.5",
                linestyle=_STYLES[precision],
                linewidth=1,
                label=f"peak {precision}",
            )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([w.length for w in batches], [w.name for w in batches])
    axes.set_xlabel("texts x tokens")
    axes.set_ylabel("tokens/s")
    axes.set_title(result.files.spec.name)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))

"""``python -m benchmarks.profile``: where the time of a forward pass goes, and how near the peak each part is.

Nodes of the graph are computed and timed one by one, which costs a barrier each: the sum is compared with whole passes
of the same batch. ``--shape``, ``--types`` and ``--sizes`` choose; the processor's peak is measured in between.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import get_args

from modernbert_llama import Embedder
from modernbert_llama.convert import OutType
from modernbert_llama.native import Engine
from modernbert_llama.synthetic import CheckpointSpec, token_ids
from modernbert_llama.threads import default_threads

from benchmarks import report
from benchmarks.peak import PeakProbe, reachable
from benchmarks.shapes import ROOT, SHAPES, Files, attention_flops, with_best_vocabulary

PRECISIONS = {"f32": "f32", "f16": "f32", "bf16": "bf16", "q8_0": "int8"}  # what the products are computed in
# attention of q8_0 files multiplies BF16
ATTENTION = PRECISIONS | {"q8_0": "bf16"}
PARTS = {"attn_qkv": "Wqkv", "attn_output": "Wo of attention", "ffn_up": "Wi (gate and up)", "ffn_down": "Wo of MLP"}
OTHERS = {"ROPE": "RoPE", "GEGLU_ERF": "GELU and gate", "MUL": "LayerNorm", "ADD": "residual sums"}


def part(name: str, op: str) -> str:
    """The row of the table that a node belongs to."""
    if op == "MUL_MAT":
        return next((label for key, label in PARTS.items() if key in name), "other")
    if op.startswith("FLASH_ATTN"):
        return "attention"
    return OTHERS.get(op, "other")


def profile(engine: Engine, ids: list[list[int]], n_passes: int) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds (medians of the passes, summed over the layers) and operations of the products, by part."""
    seconds: dict[str, float] = defaultdict(float)
    flops: dict[str, int] = defaultdict(int)
    for name, op, n_flops, times in engine.profile(ids, n_passes):
        seconds[part(name, op)] += statistics.median(times)
        flops[part(name, op)] += n_flops
    return seconds, flops


def whole(model: Embedder, ids: list[list[int]], n_passes: int) -> float:
    """Median seconds of an undisturbed pass."""
    times = []
    for _ in range(n_passes + 1):
        start = time.perf_counter()
        model.embed_tokens(ids)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def table(
    file: Path, kind: str, spec: CheckpointSpec, sizes: list[tuple[int, int]], threads: int, peak: PeakProbe
) -> str:
    """A Markdown table: share of the time and of the peak, by part and size."""
    model, engine = Embedder(file, n_threads=threads), Engine(str(file), n_threads=threads, n_batch=2**15)
    columns = []
    for rows, length in sizes:
        ids = [token_ids(spec, length, seed) for seed in range(rows)]
        n_passes = 3 if rows * length > 4096 else 9
        peak.measure()
        undisturbed = whole(model, ids, n_passes)
        seconds, flops = profile(engine, ids, n_passes)
        flops["attention"] = rows * attention_flops(spec, length)
        columns.append((rows * length, undisturbed, seconds, flops))
    labels = [*PARTS.values(), "attention", *OTHERS.values(), "other"]
    head = f"| {spec.name}, {kind} | " + " | ".join(f"{rows}x{length}" for rows, length in sizes) + " |"
    lines = [head, "|---|" + "---:|" * len(sizes)]
    for label in labels:
        cells = []
        for _, _, seconds, flops in columns:
            limit = reachable(peak.best, (ATTENTION if label == "attention" else PRECISIONS)[kind])
            share = f"{seconds[label] / sum(seconds.values()):.1%}"
            near = f", {flops[label] / seconds[label] / limit / 1e9:.0%} of peak" if flops[label] and limit else ""
            cells.append(share + near)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines.append("| tokens/s, whole passes | " + " | ".join(f"{n / t:.0f}" for n, t, _, _ in columns) + " |")
    lines.append(
        "| sum of the nodes / whole pass | " + " | ".join(f"{sum(s.values()) / t:.2f}" for _, t, s, _ in columns) + " |"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.profile", description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="base")
    parser.add_argument("--types", default="f32,bf16,q8_0", help="of the weights (default: %(default)s)")
    parser.add_argument("--sizes", default="32x16,16x128,4x512,1x2048,1x8192", help="texts x tokens, one pass each")
    parser.add_argument("--threads", type=int, default=default_threads())
    options = parser.parse_args()
    sizes = [(int(rows), int(length)) for rows, length in (size.split("x") for size in options.sizes.split(","))]
    spec = with_best_vocabulary(SHAPES[options.shape])
    files = Files(ROOT / "build" / "bench" / f"{spec.name}-{spec.vocab}", spec)
    peak = PeakProbe(files.folder, options.threads)
    print(report.machine(options.threads))
    for kind in options.types.split(","):
        outtype = next((known for known in get_args(OutType) if known == kind), None)
        if outtype is None:
            raise SystemExit(f"--types {kind}: expected some of {', '.join(get_args(OutType))}")
        print("\n" + table(files.gguf(outtype), kind, spec, sizes, options.threads, peak), flush=True)
    print("\nPeak, 10^9 operations a second: " + ", ".join(f"{name} {value:.0f}" for name, value in peak.best.items()))


if __name__ == "__main__":
    main()

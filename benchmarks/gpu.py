"""``python -m benchmarks.gpu``: a build with a GPU backend against transformers on the same GPU, by turns, one process.

Needs a torch that sees the GPU. transformers runs with each attention that is installed, and the best of them counts;
ours with each number of tokens a pass of ``--n-batch``. Prints medians, and how far the vectors are from transformers'.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from modernbert_llama import Embedder
from modernbert_llama.convert import OutType
from modernbert_llama.native import Engine
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from benchmarks import report
from benchmarks.shapes import ROOT, SHAPES, Files, with_best_vocabulary
from benchmarks.workloads import FULL, QUERY

ALL_LAYERS = 1000
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

Vectors = NDArray[np.float32]
Rows = Any  # lists of token ids, or texts
Run = Callable[[Rows], Vectors]


def ours(files: Files, outtype: OutType, n_threads: int, n_batch: int) -> Run:
    """All layers on the GPU, ``n_batch`` tokens a pass."""
    embedder = Embedder(files.gguf(outtype), n_threads=n_threads, n_gpu_layers=ALL_LAYERS)
    # no option of the public classes: 512 suits the caches of CPUs
    embedder._engine = Engine(str(files.gguf(outtype)), n_threads=n_threads, n_gpu_layers=ALL_LAYERS, n_batch=n_batch)

    def run(rows: Rows) -> Vectors:
        if isinstance(rows[0], str):
            return embedder.embed(rows)
        return embedder.embed_tokens(rows)

    return run


def transformers(files: Files, dtype: torch.dtype, attention: str) -> Run:
    """Without a mask where texts are of one length: so transformers takes its fastest way."""
    options = {"dtype": dtype, "attn_implementation": attention}
    pipeline: Any = SentenceTransformer(str(files.checkpoint), device="cuda", model_kwargs=options)

    def run(rows: Rows) -> Vectors:
        if isinstance(rows[0], str):
            return np.asarray(pipeline.encode(rows, batch_size=64, show_progress_bar=False), np.float32)
        ids = torch.tensor(rows, device="cuda")
        with torch.inference_mode():
            hidden = pipeline[0].auto_model(input_ids=ids).last_hidden_state.float()
            pooled = hidden.mean(dim=1) if files.spec.pooling == "mean" else hidden[:, 0]
            vectors: Vectors = pooled.cpu().numpy()
        return vectors

    return run


def peak(dtype: torch.dtype) -> float:
    """10^12 operations a second of one large product of random matrices."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(8):
        torch.cuda.synchronize()
        start = time.perf_counter()
        torch.matmul(a, b)
        torch.cuda.synchronize()
        best = max(best, 2 * 8192**3 / (time.perf_counter() - start) * 1e-12)
    return best


def distance(vectors: Vectors, reference: Vectors) -> float:
    """The largest 1 - cosine of a row."""
    a, b = vectors.astype(np.float64), reference.astype(np.float64)
    cosine = np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(1 - cosine.min())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("benchmarks.gpu", description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--shape", default="base", choices=sorted(SHAPES))
    parser.add_argument("--types", default="f32,f16,bf16,q8_0", help="of our weights; default: %(default)s")
    parser.add_argument("--n-batch", default="512,2048", help="tokens a pass of ours; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench")
    options = parser.parse_args(arguments)

    spec = with_best_vocabulary(SHAPES[options.shape])
    files = Files(options.output / f"{spec.name}-{spec.vocab}", spec)
    attentions = ["sdpa", *(["flash_attention_2"] if find_spec("flash_attn") else [])]

    runs: dict[str, Run] = {}
    for name, dtype in DTYPES.items():
        for attention in attentions:
            if attention == "sdpa" or dtype != torch.float32:
                runs[f"transformers-{name}, {attention}"] = transformers(files, dtype, attention)
    for outtype in options.types.split(","):
        for n_batch in map(int, options.n_batch.split(",")):
            runs[f"ours-{outtype}, {n_batch} tokens a pass"] = ours(files, outtype, options.threads, n_batch)

    workloads = [QUERY, *(w for w in FULL.workloads if w.kind in ("batch", "texts"))]
    table: dict[str, list[str]] = defaultdict(list)
    far: dict[str, list[str]] = defaultdict(list)
    for workload in workloads:
        seconds: dict[str, list[float]] = defaultdict(list)
        vectors: dict[str, Vectors] = {}
        rows = workload.texts() if workload.is_text else workload.ids(spec)
        for round_ in range(options.rounds + 1):
            for name, run in runs.items():
                start = time.perf_counter()
                vectors[name] = run(rows)
                if round_:  # the first one of a length sets up
                    seconds[name].append(time.perf_counter() - start)
        tokens = workload.rows * workload.length
        for name in runs:
            median = statistics.median(seconds[name])
            if workload.kind == "query":
                table[name].append(f"{median * 1e3:.2f} ms")
            elif workload.is_text:
                table[name].append(f"{workload.rows / median:.0f} texts/s")
            else:
                table[name].append(f"{tokens / median:.0f}")
            far[name].append(f"{distance(vectors[name], vectors['transformers-f32, sdpa']):.0e}")
        print(f"{workload.name} done", flush=True)

    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}, {report.machine(options.threads)}\n")
    peaks = ", ".join(f"{name} {peak(dtype):.0f}" for name, dtype in DTYPES.items())
    print(
        f"Products of torch, 10^12 operations a second: {peaks}. Attention of transformers: {', '.join(attentions)}.\n"
    )
    header = [workload.name for workload in workloads]
    for title, cells_of in (("tokens/s", table), ("1 - cosine to transformers-f32", far)):
        print("| " + " | ".join([title, *header]) + " |\n|---" + "|---:" * len(header) + "|")
        for name, cells in cells_of.items():
            print("| " + " | ".join([name, *cells]) + " |")
        print()


if __name__ == "__main__":
    main()

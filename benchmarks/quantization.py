"""``python -m benchmarks.quantization``: which tensors are worth more bits. docs/quantization.md tells what was found.

All matrices in q4_K (or ``--base``), then some of them in q6_K (q8_0 where their rows do not fit), and the mixtures:
what each costs in megabytes and gains in cosine to the f32 file, on checkpoints with hot random weights.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from modernbert_llama import Embedder
from modernbert_llama.quantize import Mixture, quantize
from modernbert_llama.synthetic import CheckpointSpec, token_ids
from numpy.typing import NDArray

from benchmarks.shapes import SHAPES, Files, with_best_vocabulary

ROOT = Path(__file__).parent.parent
Base = Literal["q4_K", "q5_K"]
LENGTHS = (8, 16, 32, 48, 64, 96, 128, 192)


@dataclass(frozen=True)
class Variant:
    """One row of the table: what :func:`quantize` is given."""

    name: str
    type: str
    tensor_types: Mapping[str, str]
    mixture: Mixture = "llama.cpp"


def variants(spec: CheckpointSpec, base: Base) -> list[Variant]:
    """The rows of the table, the plain one first."""
    few = max(spec.n_layer // 8, 1)
    first = "|".join(str(i) for i in range(few))
    last = "|".join(str(i) for i in range(spec.n_layer - few, spec.n_layer))
    groups = {
        "token_embd": "token_embd",
        "attn_qkv": "attn_qkv",
        "attn_output": "attn_output",
        "ffn_up": "ffn_up",
        "ffn_down": "ffn_down",
        f"first {few} layers": rf"blk\.({first})\.",
        f"last {few} layers": rf"blk\.({last})\.",
        "token_embd + attn_output": "token_embd|attn_output",
        "token_embd + ffn_down": "token_embd|ffn_down",
        "token_embd + attn_output + ffn_down": "token_embd|attn_output|ffn_down",
    }
    rows = [Variant(f"all {base}", f"{base}_S", {".": base})]
    rows += [Variant(f"{name} q6_K", f"{base}_S", {regex: "q6_K", ".": base}) for name, regex in groups.items()]
    rows += [Variant(f"all {kind}", f"{base}_S", {".": kind}) for kind in ("q5_K", "q6_K") if kind != base]
    rows += [Variant(f"llama.cpp's mixture {base}_{size}", f"{base}_{size}", {}) for size in "SM"]
    rows += [Variant(f"measured mixture {base}_M", f"{base}_M", {}, "measured")]
    return rows


def distances(reference: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.float64]:
    """1 - cosine of each row of unit vectors: half the squared distance, exact near 0."""
    squares: NDArray[np.float64] = np.sum((reference.astype(np.float64) - found) ** 2, axis=1)
    return squares / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="base,granite-small", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--base", choices=get_args(Base), default="q4_K", help="the type of the other matrices")
    parser.add_argument("--only", default=".", help="a regular expression of the rows to measure, beside the first")
    parser.add_argument("--data", type=Path, default=ROOT / "build" / "bench-data", help="where checkpoints are kept")
    options = parser.parse_args()
    for name in options.shapes.split(","):
        spec = with_best_vocabulary(SHAPES[name])
        source = Files(options.data / name, spec).gguf("f32")
        ids = [token_ids(spec, length, seed) for seed in range(2) for length in LENGTHS]
        reference = Embedder(source).embed_tokens(ids, normalize=True)
        rows = variants(spec, options.base)
        rows = [row for i, row in enumerate(rows) if not i or re.search(options.only, row.name)]
        print(f"\n{name}, {len(ids)} texts of {min(LENGTHS)} to {max(LENGTHS)} tokens\n")
        print("| matrices | MB | 1-cos, mean | 1-cos, largest | error removed by 1 MB more |\n|---|---|---|---|---|")
        plain: tuple[float, float] | None = None
        with tempfile.TemporaryDirectory(dir=options.data) as folder:
            for variant in rows:
                result = quantize(
                    source,
                    Path(folder) / "model.gguf",
                    type=variant.type,
                    tensor_types=variant.tensor_types,
                    mixture=variant.mixture,
                )
                found = distances(reference, Embedder(result.path).embed_tokens(ids, normalize=True))
                size, mean = result.size / 1e6, float(found.mean())
                plain = plain or (size, mean)
                gain = "" if size <= plain[0] else f"{(1 - mean / plain[1]) / (size - plain[0]):.2%}"
                print(f"| {variant.name} | {size:.1f} | {mean:.2e} | {found.max():.2e} | {gain} |", flush=True)


if __name__ == "__main__":
    main()

"""Make tests/golden/ with transformers in float64: ``python tests/make_golden.py [NAME ...]``, with the compare extra.

Names are those of specs.py, ``demo``, ``tokens`` and ``steps``; none means all. ``--vocab GGUF`` is llama.cpp's
ggml-vocab-gpt-neox.gguf, which ``tokens`` needs for the full-size tokenizer.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from modernbert_llama import demo
from modernbert_llama.reference import Precision, Reference, pool
from modernbert_llama.synthetic import (
    CheckpointSpec,
    full_tokenizer_json,
    small_tokenizer_json,
    token_ids,
    write_checkpoint,
)
from numpy.typing import NDArray
from specs import GOLDEN, POOLINGS, SPECS, cosine_distance, lengths, relative_error
from texts import NASTY_TEXTS
from tokenizers import Tokenizer


def pooled(folder: Path, precision: Precision, texts: list[list[int]]) -> list[NDArray[np.float64]]:
    """One array (3 poolings, width) a text."""
    reference = Reference(folder, precision)
    return [np.stack([pool(hidden, p) for p in POOLINGS]) for hidden in map(reference.hidden, texts)]


def make_vectors(spec: CheckpointSpec) -> None:
    """Write the golden file of one spec."""
    sizes = lengths(spec.name)
    texts = [token_ids(spec, n) for n in sizes]
    arrays: dict[str, NDArray[np.float64]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_checkpoint(Path(scratch) / spec.name, spec)
        for n, value in zip(sizes, pooled(folder, "float64", texts), strict=True):
            arrays[str(n)] = value
        steps: tuple[tuple[Precision, Callable[..., float]], ...] = (
            ("float32", relative_error),
            ("bfloat16", cosine_distance),
        )
        for precision, error in steps:
            gc.collect()
            for n, value in zip(sizes, pooled(folder, precision, texts), strict=True):
                errors = [error(*pair) for pair in zip(value, arrays[str(n)], strict=True)]
                arrays[f"{n}-{precision}"] = np.array(errors)
                print(f"  {n:5d} {precision:8s} " + " ".join(f"{e:.1e}" for e in errors), flush=True)
    np.savez_compressed(GOLDEN / f"{spec.name}.npz", **arrays)  # type: ignore[arg-type]  # a keyword may be an array


def make_demo() -> None:
    """Write the golden vectors that the package carries for ``modernbert-llama demo``."""
    tokenizer = Tokenizer.from_str(small_tokenizer_json())
    texts = [tokenizer.encode(sentence).ids for sentence in demo.SENTENCES]
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_checkpoint(Path(scratch) / "demo", demo.SPEC)
        exact, single = pooled(folder, "float64", texts), pooled(folder, "float32", texts)
    rows = [vectors[POOLINGS.index("cls")] for vectors in exact]
    errors = [relative_error(b[0], a[0]) for a, b in zip(exact, single, strict=True)]
    content = {
        "made_by": "tests/make_golden.py: transformers in float64, CLS pooling, not normalised",
        "embeddings": [[float(f"{x:.9g}") for x in row] for row in rows],
        "transformers_float32_error": [float(f"{e:.3g}") for e in errors],
    }
    demo.GOLDEN.write_text(json.dumps(content) + "\n", encoding="utf-8")


def make_tokens(vocab_gguf: Path) -> None:
    """Write the token ids of the nasty texts under both tokenizers, by Hugging Face's library."""
    tokenizers = [Tokenizer.from_str(text) for text in (small_tokenizer_json(), full_tokenizer_json(vocab_gguf))]
    rows = [
        {"text": text, "small": tokenizers[0].encode(text).ids, "full": tokenizers[1].encode(text).ids}
        for text in NASTY_TEXTS
    ]
    lines = ",\n".join(json.dumps(row) for row in rows)
    (GOLDEN / "token_ids.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def make_steps() -> None:
    """Write what torch's activations and sentence-transformers' similarities and quantisation give on a few vectors."""
    from modernbert_llama.precision import PRECISIONS
    from modernbert_llama.similarity import SIMILARITIES
    from modernbert_llama.steps import ACTIVATIONS
    from sentence_transformers import SimilarityFunction, quantize_embeddings

    inputs = np.concatenate([np.linspace(-30, 30, 13), np.linspace(-2, 2, 17), [0.5, -0.5]]).reshape(4, 8)
    embeddings = np.random.RandomState(7).standard_normal((20, 12)).astype(np.float32)
    ranges = np.stack([np.full(12, -1.5), np.full(12, 2.0)])
    tensor = torch.from_numpy(inputs)

    def activated(name: str) -> list[list[float]]:
        # the one that is transformers' own is torch's with an argument
        module = torch.nn.GELU(approximate="tanh") if name == "GELUTanh" else getattr(torch.nn, name)()
        result: list[list[float]] = module.eval()(tensor).tolist()
        return result

    content = {
        "made_by": "tests/make_golden.py: torch in float64, sentence-transformers' quantize_embeddings",
        "inputs": inputs.tolist(),
        "activations": {name: activated(name) for name in ACTIVATIONS},
        "similarities": {
            name: SimilarityFunction.to_similarity_fn(name)(tensor[:1], tensor).tolist() for name in SIMILARITIES
        },
        "embeddings": embeddings.tolist(),
        "ranges": ranges.tolist(),
        "quantized": {
            precision: [
                quantize_embeddings(embeddings, precision).tolist(),
                quantize_embeddings(embeddings, precision, ranges=ranges).tolist(),
            ]
            for precision in PRECISIONS
            if precision != "float32"
        },
    }
    (GOLDEN / "steps.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--vocab", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    GOLDEN.mkdir(exist_ok=True)
    for name in options.names or [*SPECS, "demo", "tokens", "steps"]:
        start = time.perf_counter()
        print(name, flush=True)
        if name == "demo":
            make_demo()
        elif name == "tokens":
            make_tokens(options.vocab)
        elif name == "steps":
            make_steps()
        else:
            make_vectors(SPECS[name])
        print(f"  {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

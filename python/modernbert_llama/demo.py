"""``modernbert-llama demo``: the whole way, from a checkpoint folder to embeddings that agree with transformers'.

The checkpoint has random weights, so its similarities mean nothing; what the demo shows is that they are the same
numbers that Hugging Face transformers computes in float64 from the same folder.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Final, TextIO

import numpy as np

from modernbert_llama.synthetic import CheckpointSpec, write_checkpoint

__all__ = ["GOLDEN", "SENTENCES", "SPEC", "run"]

GOLDEN: Final = Path(__file__).with_name("demo_golden.json")
SPEC: Final = CheckpointSpec("demo", 6, 192, 288, 6, window=32, seed=2026)
SENTENCES: Final = (
    "The cat sleeps on the chair.",
    "A dog is sleeping under the table.",
    "How does a language model read a sentence?",
    "The train to the city leaves at seven o'clock.",
    "Der Fluss entspringt in den Bergen.",
    # longer than the local window, so that the sliding-window layers have something to leave out
    " ".join(f"Sentence {i} of a text that is longer than the window." for i in range(1, 9)),
)
_FACTOR: Final = 10  # how many times transformers' own float32 error is still agreement


def run(out: TextIO, workdir: Path | None = None) -> int:
    """Make, convert, embed and compare, telling ``out``; return 0 if every vector agrees, else 1.

    ``workdir`` keeps the checkpoint and the GGUF file; None uses a temporary folder.
    """
    if workdir is None:
        with tempfile.TemporaryDirectory() as scratch:
            return run(out, Path(scratch))
    from modernbert_llama.convert import convert
    from modernbert_llama.embedder import Embedder

    print("1. A small ModernBERT checkpoint with random weights, as Hugging Face stores one", file=out)
    folder = write_checkpoint(workdir / "checkpoint", SPEC)
    print(f"   {folder}: {SPEC.n_layer} layers, {SPEC.hidden} wide, {SPEC.n_head} heads", file=out)

    print("2. Converted to GGUF", file=out)
    file = workdir / "demo-f32.gguf"
    convert(folder, file, outtype="f32")
    print(f"   {file}: {file.stat().st_size / 1e6:.1f} MB", file=out)

    print("3. Embedded by the patched llama.cpp: cosine similarities", file=out)
    model = Embedder(file)
    vectors = model.embed(list(SENTENCES), normalize=False).astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for i, row in enumerate(unit @ unit.T):
        cells = " ".join(f"{value:6.3f}" for value in row)
        print(f"   {i + 1} {cells}  {_shorten(SENTENCES[i])}", file=out)
    print("   (Random weights know no language: the numbers are not about meaning, only about being right.)", file=out)

    print("4. Against Hugging Face transformers in float64 (vectors made beforehand)", file=out)
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    agreed = 0
    for i, reference in enumerate(np.array(golden["embeddings"])):
        error = float(np.linalg.norm(vectors[i] - reference) / np.linalg.norm(reference))
        cosine = float(unit[i] @ reference / np.linalg.norm(reference))
        bar = _FACTOR * golden["transformers_float32_error"][i]
        agreed += error <= bar
        verdict = "agrees" if error <= bar else f"DIFFERS (more than {bar:.1e})"
        print(f"   {i + 1} cosine {cosine:.9f}  relative error {error:.1e}  {verdict}", file=out)
    print(f"   {agreed} of {len(SENTENCES)} vectors agree", file=out)
    return 0 if agreed == len(SENTENCES) else 1


def _shorten(text: str) -> str:
    return text if len(text) <= 48 else text[:45] + "..."

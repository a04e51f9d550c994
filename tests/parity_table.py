"""Print the table of README: the largest error over all lengths, for each shape and type. `make parity-table`."""

from __future__ import annotations

import sys

import numpy as np
from models import embedder, full_tokenizer, scratch
from modernbert_llama.convert import OutType, convert
from modernbert_llama.embedder import Embedder
from modernbert_llama.synthetic import CheckpointSpec, token_ids, write_checkpoint
from specs import POOLINGS, SPECS, cosine_distance, golden_arrays, lengths, relative_error
from test_parity_golden import own_pooling
from texts import NASTY_TEXTS

TITLES = {
    "base": "ModernBERT-base (22 layers, 768)",
    "granite-small": "granite-small (12 layers, 384)",
    "large": "ModernBERT-large (28 layers, 1024)",
    "deep28": "28 layers, 128",
    "tiny": "2 layers, both global",
    "biases": "all biases",
    "silu": "silu",
    "gelu-tanh": "tanh GELU",
    "irregular": "irregular layer_types",
    "window32": "window 32",
}
OUTTYPES: tuple[OutType, ...] = ("f32", "f16", "bf16", "q8_0")


def worst(name: str, outtype: OutType, longest: int) -> tuple[float, float]:
    """Our largest error over the lengths, and transformers' own in that type (nan where it has none)."""
    row = POOLINGS.index(own_pooling(name))
    golden = golden_arrays(name)
    model = embedder(name, outtype)
    ours, theirs = [], []
    for length in lengths(name):
        if length > longest:
            continue
        vector = model.embed_tokens([token_ids(SPECS[name], length)])[0]
        measure = relative_error if outtype == "f32" else cosine_distance
        ours.append(measure(vector, golden[str(length)][row]))
        column = {"f32": "float32", "bf16": "bfloat16"}.get(outtype)
        theirs.append(float(golden[f"{length}-{column}"][row]) if column else np.nan)
    return max(ours), max(theirs)


def fallback() -> str:
    """How often llama.cpp's own tokenizer differs, on the texts that tokenizers get wrong."""
    folder = write_checkpoint(scratch() / "full", CheckpointSpec("full", 1, 64, 64, 1, vocab="full"), full_tokenizer())
    file = convert(folder, scratch() / "full.gguf", outtype="q8_0", show_progress=False)
    ours, llama = Embedder(file), Embedder(file, tokenizer="llama")
    differ = sum(ours.tokenize(text) != llama.tokenize(text) for text in NASTY_TEXTS)
    return f"llama.cpp's own tokenizer differs from Hugging Face's on {differ} of {len(NASTY_TEXTS)} hard texts"


def main() -> None:
    longest = int(sys.argv[1]) if len(sys.argv) > 1 else 8192
    print(
        "| shape | tokens | e, f32 | e, transformers f32 | 1-cos, f16 | 1-cos, bf16 | transformers bf16 | 1-cos, q8_0 |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, title in TITLES.items():
        found = {outtype: worst(name, outtype, longest) for outtype in OUTTYPES}
        top = max(length for length in lengths(name) if length <= longest)
        cells = [title, f"1 to {top}", f"{found['f32'][0]:.1e}", f"{found['f32'][1]:.1e}", f"{found['f16'][0]:.1e}"]
        cells += [f"{found['bf16'][0]:.1e}", f"{found['bf16'][1]:.1e}", f"{found['q8_0'][0]:.1e}"]
        print("| " + " | ".join(cells) + " |", flush=True)
    print(f"\n{fallback()}")


if __name__ == "__main__":
    main()

"""How often llama.cpp's own tokenizer differs from Hugging Face's: ``make tokenizer-table``.

Each form of tests/tokenizer_forms.py over 5,000 generated Unicode strings and over plain sentences: as stock
llama-cpp-python reads the converted file, and with this project's patches. The share of texts with any other id.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from form_checkpoint import form_checkpoint
from models import full_tokenizer, stock_llama
from modernbert_llama.convert import convert
from modernbert_llama.embedder import Embedder
from modernbert_llama.synthetic import CheckpointSpec, write_checkpoint
from tokenizer_forms import FORMS, corpus, random_texts

STOCK_PROGRAM = """
import json, sys, llama_cpp
path, texts = json.load(sys.stdin)
llama = llama_cpp.Llama(model_path=path, vocab_only=True, verbose=False)
print(json.dumps([llama.tokenize(text.encode(), add_bos=True, special=True) for text in texts]))
"""


def stock_ids(path: Path, texts: list[str]) -> list[list[int]]:
    """The ids that stock llama-cpp-python gives, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", STOCK_PROGRAM],
        input=json.dumps([str(path), texts]),
        env={**os.environ, "PYTHONPATH": str(stock_llama())},
        capture_output=True,
        text=True,
        check=True,
    )
    ids: list[list[int]] = json.loads(done.stdout.strip().splitlines()[-1])
    return ids


def shares(path: Path, texts: list[str]) -> tuple[float, float]:
    """The share of texts that stock, and that our llama.cpp, tokenizes otherwise than the embedded tokenizer."""
    exact, ours = Embedder(path), Embedder(path, tokenizer="llama")
    expected = [exact.tokenize(text) for text in texts]
    found = stock_ids(path, texts), [ours.tokenize(text) for text in texts]
    stock, patched = (sum(a != b for a, b in zip(ids, expected, strict=True)) / len(texts) for ids in found)
    return stock, patched


def row(title: str, path: Path, count: int) -> str:
    cells = [f"{100 * share:.2f} %" for texts in (random_texts(count), list(corpus())) for share in shares(path, texts)]
    return f"| {title} | {' | '.join(cells)} |"


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    print("| form | generated: stock | generated: patched | sentences: stock | sentences: patched |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, form in FORMS.items():
            if form.ggml is None:
                continue
            path = convert(form_checkpoint(Path(folder) / name, name), Path(folder) / f"{name}.gguf")
            print(row(name, path, count), flush=True)
        spec = CheckpointSpec("full", 1, 64, 64, 1, vocab="full")
        write_checkpoint(Path(folder) / "full", spec, full_tokenizer())
        print(row("standard, all 50368 ids", convert(Path(folder) / "full", Path(folder) / "full.gguf"), count))


if __name__ == "__main__":
    main()

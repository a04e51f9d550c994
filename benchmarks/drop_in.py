"""``python -m benchmarks.drop_in MODEL.gguf``: `llama_cpp.Llama.embed` on the stock and the patched libraries, in turn.

Needs llama-cpp-python of the libraries' release on the path. Prints the median tokens a second of each; the token ids
are random, so that the tokenizer is not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np
from modernbert_llama.llama_compat.libraries import environment

SIZES = "16x128,1x2048"


def serve(model: str, size: int, n_threads: int) -> None:
    """One rival: a line "texts tokens" in, the seconds of one call out."""
    import llama_cpp
    from llama_cpp.llama_tokenizer import BaseLlamaTokenizer

    class Ids(BaseLlamaTokenizer):  # type: ignore[misc]
        def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:  # noqa: ARG002
            return [int(token) for token in text.split()]

        def detokenize(self, tokens: object, prev_tokens: object = None, special: bool = False) -> bytes:  # noqa: ARG002
            return b""

    llama = llama_cpp.Llama(
        model, embedding=True, n_ctx=size, n_batch=size, n_ubatch=size, n_threads=n_threads,
        n_threads_batch=n_threads, verbose=False, tokenizer=Ids(),
    )  # fmt: skip
    ids = np.random.RandomState(0).randint(20, 900, (64, size))
    llama.embed("20 21 22")
    for line in sys.stdin:
        n_texts, n_tokens = map(int, line.split())
        texts = [" ".join(map(str, row[:n_tokens])) for row in ids[:n_texts]]
        start = time.perf_counter()
        llama.embed(texts)
        print(time.perf_counter() - start, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--sizes", default=SIZES, help=f"texts x tokens (default: {SIZES})")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.model, options.serve, options.threads)
        return
    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes.split(",")]
    largest = max(n_tokens * n_texts for n_texts, n_tokens in sizes)
    command = [sys.executable, "-m", "benchmarks.drop_in", options.model, f"--threads={options.threads}"]
    rivals = {
        name: subprocess.Popen(
            [*command, f"--serve={largest}"], env={**os.environ, **variables},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for name, variables in (("stock", {}), ("patched", environment()))
    }  # fmt: skip
    for n_texts, n_tokens in sizes:
        seconds: dict[str, list[float]] = {name: [] for name in rivals}
        for _ in range(options.rounds):
            for name, process in rivals.items():
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(f"{n_texts} {n_tokens}\n")
                process.stdin.flush()
                seconds[name].append(float(process.stdout.readline()))
        rates = {name: round(n_texts * n_tokens / statistics.median(values)) for name, values in seconds.items()}
        print(json.dumps({"texts x tokens": f"{n_texts}x{n_tokens}", **rates}), flush=True)
    for process in rivals.values():
        process.communicate()


if __name__ == "__main__":
    main()

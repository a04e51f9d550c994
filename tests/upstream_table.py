"""Print the table of docs/llama-cpp-python.md: each upstream, flavour of file and type, how exact and how fast.
``make upstream-table``, or ``python tests/upstream_table.py NAME...`` for some of the upstreams.

The model is granite-embedding-small-english-r2 in shape. Ours is llama-cpp-python of the release on the patched
libraries, or `Embedder` where the release is of another package. The rivals of a row run by turns.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from bert_model import write_bert
from models import gguf, scratch
from modernbert_llama.convert import OutType
from modernbert_llama.keys import ARCHS, Arch
from modernbert_llama.synthetic import token_ids
from specs import POOLINGS, SPECS, cosine_distance, golden_arrays, lengths, relative_error
from test_parity_golden import own_pooling
from upstream_builds import PATCHES, drop_in, environment, ours, stock

NAME = "granite-small"
OUTTYPES: tuple[OutType, ...] = ("f32", "f16", "bf16", "q8_0")
N_TEXTS, N_TOKENS, ROUNDS = 16, 128, 3
LENGTHS = [length for length in lengths(NAME) if length <= 1000]


class Rival:
    """A library with a model in a process of its own; ``refusal`` says why it did not load it."""

    def __init__(self, library: str, file: Path, env: dict[str, str]) -> None:
        self.library = library
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        command = [sys.executable, str(Path(__file__).with_name("upstream_server.py")), library, str(file)]
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self.seconds: list[float] = []
        self.refusal = self._answer()
        if self.refusal and "unknown model architecture" not in self._said():
            raise RuntimeError(f"{library} {file}: {self.refusal}\n{self._said()[-2000:]}")

    def _said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self._said()[-2000:])
        return json.loads(line)

    def encode(self, rows: list[list[int]]) -> tuple[float, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(rows) + "\n")
        self.process.stdin.flush()
        seconds, vectors = self._answer()
        return seconds, np.array(vectors)

    def error(self, outtype: OutType) -> str:
        """The largest over all lengths, against transformers in float64."""
        if self.refusal:
            return "not loaded"
        golden, row = golden_arrays(NAME), POOLINGS.index(own_pooling(NAME))
        measure = relative_error if outtype == "f32" else cosine_distance
        found = []
        for length in LENGTHS:
            _, vectors = self.encode([token_ids(SPECS[NAME], length)])
            found.append(measure(vectors.reshape(-1), golden[str(length)][row]))
        return f"{max(found):.1e}"

    def speed(self) -> str:
        return f"{N_TEXTS * N_TOKENS / statistics.median(self.seconds):.0f}" if self.seconds else "not loaded"

    def close(self) -> None:
        self.process.communicate()
        self.log.close()


def started(upstream: str, file: Path) -> tuple[Rival, Rival]:
    """Ours and stock."""
    theirs = environment(stock(upstream))
    if PATCHES.upstream(upstream).package == "llama-cpp-python":
        return Rival("llama_cpp", file, drop_in(upstream)), Rival("llama_cpp", file, theirs)
    return Rival("embedder", file, environment(*ours(upstream))), Rival("xllamacpp", file, theirs)


def cells(upstream: str, arch: Arch, outtype: OutType, bert: Path | None) -> list[str]:
    """A row but for its first three; with ``bert`` a last one, stock with that model."""
    own, theirs = found = started(upstream, gguf(NAME, outtype, arch))
    errors = [own.error(outtype), theirs.error(outtype)]
    timed = [rival for rival in found if not rival.refusal]
    if bert is not None:
        timed.append(Rival(theirs.library, bert, environment(stock(upstream))))
    texts = np.random.RandomState(0).randint(20, 900, (N_TEXTS, N_TOKENS)).tolist()
    for rival in timed:
        rival.encode(texts[:1])
    for _ in range(ROUNDS):
        for rival in timed:
            rival.seconds.append(rival.encode(texts)[0])
    for rival in {*found, *timed}:
        rival.close()
    return [*errors, own.speed(), theirs.speed(), *([timed[-1].speed()] if bert else [])]


def main() -> None:
    names = sys.argv[1:] or [upstream.name for upstream in PATCHES.upstreams()]
    print("| upstream | file | type | error, ours | error, stock | tokens/s, ours | stock | stock, a BERT |")
    print("|---|---|---|---|---|---|---|---|")
    spec = SPECS[NAME]
    for outtype in OUTTYPES:
        # as many multiplications as ModernBERT, whose feed-forward has three matrices for BERT's two
        n_ff = spec.intermediate * 3 // 2
        bert = write_bert(
            scratch() / f"bert-{outtype}.gguf", outtype,
            n_layer=spec.n_layer, n_embd=spec.hidden, n_head=spec.n_head, n_ff=n_ff,
        )  # fmt: skip
        others: dict[str, str] = {}  # the BERT is the same beside both flavours
        for arch in ARCHS:
            for upstream in names:
                first = upstream not in others
                row = cells(upstream, arch, outtype, bert if first else None)
                if first:
                    others[upstream] = row.pop()
                print("| " + " | ".join([upstream, arch, outtype, *row, others[upstream]]) + " |", flush=True)
            gguf(NAME, outtype, arch).unlink()


if __name__ == "__main__":
    main()

"""The models that are measured, the files made of them, and the work a forward pass must do."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from modernbert_llama.convert import CONVERTER_VERSION, OutType, convert
from modernbert_llama.synthetic import CheckpointSpec, full_tokenizer_json, write_checkpoint

from benchmarks.workloads import DENSE_WIDTH, Task

__all__ = ["SHAPES", "Files", "attention_flops", "batch_flops", "head_flops", "linear_flops", "with_best_vocabulary"]

ROOT: Final = Path(__file__).parent.parent

SHAPES: Final = {
    spec.name: spec
    for spec in (
        CheckpointSpec("base", 22, 768, 1152, 12, pooling="mean", vocab="full", seed=2),
        CheckpointSpec("granite-small", 12, 384, 1536, 12, global_theta=80000.0, vocab="full", seed=3),
    )
}


def with_best_vocabulary(spec: CheckpointSpec) -> CheckpointSpec:
    """``spec``, with the small vocabulary where llama.cpp's file of the full one is not at hand."""
    return spec if _vocabulary_file() else replace(spec, vocab="small")


def _vocabulary_file() -> Path | None:
    roots = [ROOT / "third_party"]
    if "LLAMA_CPP_SOURCE_DIR" in os.environ:
        roots.append(Path(os.environ["LLAMA_CPP_SOURCE_DIR"]))
    for root in roots:
        for file in sorted(root.glob("**/models/ggml-vocab-gpt-neox.gguf")):
            return file
    return None


@dataclass(frozen=True)
class Files:
    """The checkpoint of ``spec`` and what programs made of it, each made once and kept in ``folder``.

    That of another task than ``embed`` lies in a folder of the task's name in the one of the embedder, its encoder.
    """

    folder: Path
    spec: CheckpointSpec
    task: Task = "embed"

    def of(self, task: Task) -> Files:
        """The files of ``task``, from those of ``embed``."""
        return self if task == "embed" else replace(self, folder=self.folder / task, task=task)

    @property
    def checkpoint(self) -> Path:
        """The Hugging Face folder."""
        return self.make("checkpoint", self._write_checkpoint)

    def gguf(self, outtype: OutType) -> Path:
        """The checkpoint converted."""
        source = self.checkpoint
        return self.make(
            f"v{CONVERTER_VERSION}-{outtype}.gguf",
            lambda path: convert(source, path, outtype=outtype, show_progress=False),
        )

    def make(self, name: str, write: Callable[[Path], object]) -> Path:
        """The file or folder ``name``; ``write`` makes it at the path it is given, if it is not there."""
        path = self.folder / name
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"partial-{os.getpid()}-{name}")
            write(partial)
            partial.rename(path)
        return path

    def _write_checkpoint(self, path: Path) -> None:
        if self.task != "embed":
            from benchmarks.heads import write_head_checkpoint

            write_head_checkpoint(self.task, Files(self.folder.parent, self.spec).checkpoint, path)
            return
        file = _vocabulary_file()
        full = self.spec.vocab == "full" and file is not None
        write_checkpoint(path, self.spec, full_tokenizer_json(file) if full and file else None)


def linear_flops(spec: CheckpointSpec) -> int:
    """Floating-point operations of the matrix products with weights, for one token."""
    return 2 * spec.n_layer * (4 * spec.hidden**2 + 3 * spec.hidden * spec.intermediate)


def attention_flops(spec: CheckpointSpec, length: int) -> int:
    """Floating-point operations of attention over one sequence: each query with the keys that it may see, no more."""
    half = spec.window // 2
    near = sum(min(length - 1, i + half) - max(0, i - half) + 1 for i in range(length))
    seen = sum(near if kind == "sliding_attention" else length**2 for kind in spec.layers)
    return 4 * spec.hidden * seen


def batch_flops(spec: CheckpointSpec, rows: int, length: int) -> int:
    """Floating-point operations of a batch of ``rows`` sequences of ``length`` tokens."""
    return rows * (length * linear_flops(spec) + attention_flops(spec, length))


def head_flops(spec: CheckpointSpec, task: Task) -> int:
    """Floating-point operations of a head's products, for one token; that of a reranker sees one row a text."""
    per_token = {
        "sparse": spec.hidden * (spec.hidden + spec.vocab_size),
        "multi-vector": spec.hidden * DENSE_WIDTH,
    }
    return 2 * per_token.get(task, 0)

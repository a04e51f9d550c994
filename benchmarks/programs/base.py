"""What a program is to the benchmark."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.programs import ProgramSpec
    from benchmarks.shapes import Files
    from benchmarks.workloads import Task, Workload

__all__ = ["PaddedProgram", "Program", "VectorProgram", "padding_tokenizer"]


class Program(ABC):
    """One way of doing a task; made in a process of its own. Making it loads the model."""

    @abstractmethod
    def __init__(self, spec: ProgramSpec, files: Files, n_threads: int) -> None: ...

    @classmethod
    @abstractmethod
    def prepare(cls, spec: ProgramSpec, files: Files) -> None:
        """Make the files that the program reads; runs in another process before, and is not measured."""

    @abstractmethod
    def embed_texts(self, texts: Sequence[str], at_once: int) -> NDArray[np.float32]:
        """What the program's public API makes of texts, ``at_once`` a call where it leaves that to the caller.

        A row a text: its vector, or its score against the first text, which has no row; for ``multi-vector`` a row a
        token.
        """

    def packings(self, workload: Workload) -> list[int]:
        """The values of ``at_once`` worth trying; the fastest is then measured."""
        return workload.packings()

    def rest(self) -> None:
        """Give back the memory that the next call can take again, where there is any to give."""
        return


class VectorProgram(Program):
    """A program that embeds, and takes token ids as well."""

    @abstractmethod
    def embed_ids(self, ids: Sequence[Sequence[int]], at_once: int) -> NDArray[np.float32]:
        """Embed rows of equal length, ``at_once`` a call; the vectors may be of any length."""


class PaddedProgram(VectorProgram):
    """A program that takes rectangles of token ids, and a mask."""

    @abstractmethod
    def forward(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """One call of the model: (rows, tokens) twice -> (rows, width), or (rows, tokens, width) for multi-vector."""

    def embed_ids(self, ids: Sequence[Sequence[int]], at_once: int) -> NDArray[np.float32]:
        """All rows have one length: nothing is padded."""
        rows = np.array(ids, np.int64)
        return np.concatenate([self.forward(part, np.ones_like(part)) for part in _parts(rows, at_once)])

    def embed_padded(self, tokenizer: Any, texts: Sequence[str], at_once: int, task: Task) -> NDArray[np.float32]:
        """As sentence-transformers' encode does it: longest first, each batch padded to its longest."""
        items: list[Any] = [(texts[0], text) for text in texts[1:]] if task == "rerank" else list(texts)
        order = np.argsort([-len(text) for text in texts[len(texts) - len(items) :]], kind="stable")
        found: list[Any] = [None] * len(items)
        for part in _parts(order, at_once):
            encodings = tokenizer.encode_batch([items[i] for i in part])
            ids = np.array([encoding.ids for encoding in encodings], np.int64)
            mask = np.array([encoding.attention_mask for encoding in encodings], np.int64)
            for i, row, there in zip(part, self.forward(ids, mask), mask, strict=True):
                found[i] = row[there > 0] if row.ndim == 2 else row[None]
        result: NDArray[np.float32] = np.concatenate(found)
        if task == "embed":
            result /= np.linalg.norm(result, axis=1, keepdims=True)
        return result


def _parts(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def padding_tokenizer(files: Files) -> Any:
    """The checkpoint's tokenizer, padding each batch."""
    from modernbert_llama.synthetic import special_ids
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(files.checkpoint / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=special_ids(files.spec.vocab)["pad"], pad_token="[PAD]")
    return tokenizer

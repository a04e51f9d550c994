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
    from benchmarks.workloads import Workload

__all__ = ["PaddedProgram", "Program", "padding_tokenizer"]


class Program(ABC):
    """One way of computing embeddings; made in a process of its own. Making it loads the model."""

    @abstractmethod
    def __init__(self, spec: ProgramSpec, files: Files, n_threads: int) -> None: ...

    @classmethod
    @abstractmethod
    def prepare(cls, spec: ProgramSpec, files: Files) -> None:
        """Make the files that the program reads; runs in another process before, and is not measured."""

    @abstractmethod
    def embed_ids(self, ids: Sequence[Sequence[int]], at_once: int) -> NDArray[np.float32]:
        """Embed rows of equal length, ``at_once`` a call; the vectors may be of any length."""

    @abstractmethod
    def embed_texts(self, texts: Sequence[str], at_once: int) -> NDArray[np.float32]:
        """Embed texts through the program's public API, ``at_once`` a call where it leaves that to the caller."""

    def packings(self, workload: Workload) -> list[int]:
        """The values of ``at_once`` worth trying; the fastest is then measured."""
        return workload.packings()

    def rest(self) -> None:
        """Give back the memory that the next call can take again, where there is any to give."""
        return


class PaddedProgram(Program):
    """A program that takes rectangles of token ids, and a mask."""

    @abstractmethod
    def forward(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """One call of the model, pooled: (rows, tokens) twice -> (rows, width)."""

    def embed_ids(self, ids: Sequence[Sequence[int]], at_once: int) -> NDArray[np.float32]:
        """All rows have one length: nothing is padded."""
        rows = np.array(ids, np.int64)
        return np.concatenate([self.forward(part, np.ones_like(part)) for part in _parts(rows, at_once)])

    def embed_padded(self, tokenizer: Any, texts: Sequence[str], at_once: int) -> NDArray[np.float32]:
        """As SentenceTransformer.encode does it: longest first, each batch padded to its longest, normalised."""
        order = np.argsort([-len(text) for text in texts], kind="stable")
        vectors = []
        for part in _parts(order, at_once):
            encodings = tokenizer.encode_batch([texts[i] for i in part])
            ids = np.array([encoding.ids for encoding in encodings], np.int64)
            mask = np.array([encoding.attention_mask for encoding in encodings], np.int64)
            vectors.append(self.forward(ids, mask))
        result = np.empty((len(texts), vectors[0].shape[1]), np.float32)
        result[order] = np.concatenate(vectors)
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

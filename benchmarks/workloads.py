"""What every program is given, for embedding and for the tasks of other heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from modernbert_llama.synthetic import CheckpointSpec, token_ids

from benchmarks.texts import english_texts, texts_of

__all__ = ["BATCHES", "DENSE_WIDTH", "FULL", "QUERY", "QUICK", "TASKS", "Plan", "Task", "Workload", "task_plan"]

Task = Literal["embed", "rerank", "sparse", "multi-vector"]
Kind = Literal["batch", "query", "texts", "packing", "rerank", "sparse", "multi-vector"]
TASKS: Final[tuple[Task, ...]] = get_args(Task)
DENSE_WIDTH: Final = 128  # of the vectors of late interaction, as ColBERT's
_N_QUERY_TOKENS: Final = 14  # of twelve words
_N_WORDS: Final = {200: 172}  # of texts of about so many tokens, the special ones included


@dataclass(frozen=True)
class Workload:
    """``rows`` texts.

    ``length`` is the tokens of each; 0 means English texts for the text API. ``packing`` workloads are run by our own
    programs only, and ``at_once`` (0: all) fixes how many rows go into one call. The kinds that are tasks are documents
    of about ``length`` tokens for the text API, and for ``rerank`` one query with them.
    """

    kind: Kind
    rows: int
    length: int = 0
    at_once: int = 0

    @property
    def name(self) -> str:
        """A short name, unique in a plan."""
        if self.kind == "texts":
            return f"{self.rows} texts"
        if self.is_task:
            return f"{self.kind} {self.rows}x{self.length}"
        suffix = "" if self.kind != "packing" else " one by one" if self.at_once else " packed"
        return f"{self.rows}x{self.length}{suffix}"

    @property
    def is_task(self) -> bool:
        """Whether it is of another head than that of embeddings."""
        return self.kind in TASKS

    @property
    def row_length(self) -> int:
        """About how many tokens go through the model at once: of ``rerank``, the query before each document."""
        return self.length + (_N_QUERY_TOKENS if self.kind == "rerank" else 0)

    @property
    def is_text(self) -> bool:
        """Whether programs get texts, not token ids."""
        return self.kind == "texts" or self.is_task

    @property
    def is_long(self) -> bool:
        """Whether a pass takes seconds and gigabytes: then programs give their memory back after each turn."""
        return self.length > 4096

    def ids(self, spec: CheckpointSpec) -> list[list[int]]:
        """The token ids of each row."""
        return [token_ids(spec, self.length, seed) for seed in range(self.rows)]

    def texts(self) -> list[str]:
        """The English texts; of ``rerank``, the query first."""
        if not self.is_task:
            return english_texts(self.rows)
        documents = texts_of(_N_WORDS[self.length], self.rows, seed=7)
        return [*texts_of(12, 1, seed=8), *documents] if self.kind == "rerank" else documents

    def packings(self) -> list[int]:
        """Rows a call that are worth trying: all, about 512 tokens, one."""
        if self.at_once or self.kind in ("query", "packing"):
            return [self.at_once or self.rows]
        if self.kind == "texts":
            return [32, 8]
        if self.is_task:
            return sorted({min(self.rows, n) for n in (32, 8, 2)}, reverse=True)
        return sorted({self.rows, min(self.rows, max(1, 512 // self.length)), 1}, reverse=True)


@dataclass(frozen=True)
class Plan:
    """How much is measured. ``fresh`` is how often each program is started anew; ``turn`` is seconds a turn.

    Each packing is tried ``tries`` times; with 0 only those of texts are, once.
    """

    workloads: Sequence[Workload]
    rounds: int
    fresh: int
    memory_length: int
    turn: float
    tries: int


QUERY: Final = Workload("query", 1, 16)
BATCHES: Final = tuple(
    Workload("batch", rows, length) for rows, length in ((32, 16), (16, 128), (8, 256), (4, 512), (1, 2048), (1, 8192))
)
_PACKING: Final = (Workload("packing", 64, 128), Workload("packing", 64, 128, at_once=1))

FULL: Final = Plan(
    workloads=(QUERY, *BATCHES[:-1], Workload("texts", 64), *_PACKING, BATCHES[-1]),
    rounds=3,
    fresh=3,
    memory_length=8192,
    turn=0.5,
    tries=1,
)
QUICK: Final = Plan(
    workloads=(
        QUERY,
        Workload("batch", 16, 16),
        Workload("batch", 4, 128),
        Workload("batch", 1, 512),
        Workload("texts", 6),
    ),
    rounds=2,
    fresh=1,
    memory_length=512,
    turn=0.0,
    tries=0,
)


def task_plan(task: Task, *, quick: bool) -> Plan:
    """Documents of 200 tokens; ``task`` is another than ``embed``."""
    work = Workload(cast("Kind", task), 8 if quick else 40, 200)
    return Plan((work,), rounds=1 if quick else 3, fresh=0, memory_length=0, turn=0.0 if quick else 0.5, tries=1)

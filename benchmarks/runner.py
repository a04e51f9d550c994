"""Runs the programs by turns, so that what else the machine does falls on all alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.client import Worker, WorkerError
from benchmarks.peak import PeakProbe
from benchmarks.programs import REFERENCE, ProgramSpec, missing_packages
from benchmarks.shapes import Files
from benchmarks.workloads import Plan, Workload

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Measurement", "Result", "run"]


@dataclass
class Measurement:
    """All that was found of one program."""

    spec: ProgramSpec
    seconds: dict[str, list[float]] = field(default_factory=dict)  # of each call, by workload
    at_once: dict[str, int] = field(default_factory=dict)
    distance: dict[str, float] = field(default_factory=dict)  # the largest 1 - cosine to the reference, by workload
    starts: list[dict[str, float]] = field(default_factory=list)  # "load" and "first", seconds
    peak_bytes: int | None = None
    error: str | None = None  # what ended it
    gaps: dict[str, str] = field(default_factory=dict)  # what went wrong without ending it, by workload

    def failures(self) -> list[str]:
        """What could not be measured, and why."""
        whole = [] if self.error is None else [self.error]
        return [*(f"{what}: {why}" for what, why in self.gaps.items()), *whole]

    def median(self, workload: Workload) -> float | None:
        """Median seconds of a call."""
        seconds = self.seconds.get(workload.name)
        return float(np.median(seconds)) if seconds else None

    def start(self, what: str) -> float | None:
        """Median seconds of ``what``."""
        return float(np.median([start[what] for start in self.starts])) if self.starts else None


@dataclass(frozen=True)
class Result:
    """One shape, measured."""

    files: Files
    plan: Plan
    n_threads: int
    peak: dict[str, float]  # 10^9 operations a second by precision
    reference: str
    measurements: list[Measurement]
    n_text_tokens: dict[str, int]  # Hugging Face's count, special tokens included, by workload


def run(files: Files, plan: Plan, specs: Sequence[ProgramSpec], n_threads: int, say: Callable[[str], None]) -> Result:
    """Measure ``specs`` on one shape; ``say`` hears of the progress."""
    return _Runner(files, plan, specs, n_threads, say).run()


class _Runner:
    def __init__(
        self, files: Files, plan: Plan, specs: Sequence[ProgramSpec], n_threads: int, say: Callable[[str], None]
    ) -> None:
        self._files, self._plan, self._n_threads, self._say = files, plan, n_threads, say
        self._measurements = [Measurement(spec) for spec in specs if spec.does(files.task)]
        self._workers: dict[str, Worker] = {}
        self._reference = REFERENCE.name
        self._log = files.folder / "log"
        self._probe = PeakProbe(files.folder, n_threads)

    def run(self) -> Result:
        self._prepare()
        self._probe.measure()
        if self._plan.fresh > 1:
            for i in range(self._plan.fresh):
                self._start_anew(i)
        try:
            self._open_workers()
            for workload in self._plan.workloads:
                self._measure(workload)
        finally:
            for worker in self._workers.values():
                worker.close()
        peak, counts = self._probe.best, self._text_tokens()
        return Result(self._files, self._plan, self._n_threads, peak, self._reference, self._measurements, counts)

    def _text_tokens(self) -> dict[str, int]:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self._files.checkpoint / "tokenizer.json"))
        return {
            workload.name: sum(len(encoding.ids) for encoding in tokenizer.encode_batch(workload.texts()))
            for workload in self._plan.workloads
            if workload.is_text
        }

    def _new_worker(self, spec: ProgramSpec) -> Worker:
        return Worker(spec, self._files, self._n_threads, self._log / f"{spec.name}.txt")

    @contextmanager
    def _failing(self, measurement: Measurement, part: str | None = None) -> Iterator[None]:
        """A program that fails is left out from there on; at ``part`` only there, with a new process after it."""
        try:
            yield
        except WorkerError as error:
            self._say(f"{measurement.spec.name}: {error}")
            worker = self._workers.pop(measurement.spec.name, None)
            if worker is not None:
                worker.close()
            if part is None:
                measurement.error = str(error)
                return
            measurement.gaps[part] = str(error)
            if worker is not None:
                with self._failing(measurement):
                    self._open(measurement)

    def _alive(self) -> Iterator[Measurement]:
        return (measurement for measurement in self._measurements if measurement.error is None)

    def _prepare(self) -> None:
        self._log.mkdir(parents=True, exist_ok=True)
        self._say(f"{self._files.checkpoint}")
        for measurement in self._measurements:
            missing = missing_packages(measurement.spec)
            if missing:
                measurement.error = f"not installed: {', '.join(missing)}"
                self._say(f"{measurement.spec.name}: {measurement.error}")
                continue
            if not measurement.spec.has_files:
                continue
            self._say(f"{measurement.spec.name}: preparing its files")
            with self._failing(measurement), closing(self._new_worker(measurement.spec)) as worker:
                worker.ask("prepare")

    def _start_anew(self, i: int) -> None:
        """Loading, and memory the first time, in processes of which nothing else is asked."""
        for measurement in self._alive():
            self._say(f"{measurement.spec.name}: start {i + 1} of {self._plan.fresh}")
            with self._failing(measurement), closing(self._new_worker(measurement.spec)) as worker:
                measurement.starts.append(worker.ask("load"))
                if i == 0:
                    with self._failing(measurement, "peak memory"):
                        measurement.peak_bytes = worker.ask("memory", length=self._plan.memory_length)["bytes"]

    def _open(self, measurement: Measurement) -> dict[str, float]:
        """A lasting process, loaded."""
        worker = self._workers[measurement.spec.name] = self._new_worker(measurement.spec)
        return worker.ask("load")

    def _open_workers(self) -> None:
        """The programs' lasting processes, and the reference's, which may be none of them."""
        for measurement in self._alive():
            with self._failing(measurement):
                start = self._open(measurement)
                if self._plan.fresh == 1:
                    measurement.starts.append(start)
                    with self._failing(measurement, "peak memory"):
                        worker = self._workers[measurement.spec.name]
                        measurement.peak_bytes = worker.ask("memory", length=self._plan.memory_length)["bytes"]
        if self._reference in self._workers:
            return
        if missing_packages(REFERENCE) or any(m.spec == REFERENCE for m in self._measurements):
            self._reference = next((name for name in self._workers if name.endswith("-f32")), "")
            self._say(f"transformers-f32 is not there to compare with: the reference is {self._reference or 'none'}")
        else:
            worker = self._workers[self._reference] = self._new_worker(REFERENCE)
            worker.ask("load")

    def _measure(self, workload: Workload) -> None:
        """Vectors and the best packing of each program, then the rounds."""
        mine = [m for m in self._alive() if workload.kind != "packing" or m.spec.family == "ours"]
        vectors: dict[str, NDArray[np.float32]] = {}
        for measurement in mine:
            with self._failing(measurement, workload.name):
                self._say(f"{workload.name}: {measurement.spec.name} warms up")
                worker = self._workers[measurement.spec.name]
                at_once, found, elapsed = worker.warm(workload, self._plan.tries)
                vectors[measurement.spec.name] = found
                measurement.at_once[workload.name] = at_once
                if workload.is_long:  # too dear to throw away
                    measurement.seconds[workload.name] = [elapsed]
                self._rest(worker, workload)
        self._compare(workload, mine, vectors)
        rounds = 1 if workload.is_long else self._plan.rounds
        for i in range(rounds):
            self._say(f"{workload.name}: round {i + 1} of {rounds}")
            self._probe.measure()
            for measurement in mine:
                if measurement.error is not None or workload.name in measurement.gaps:
                    continue
                with self._failing(measurement, workload.name):
                    worker = self._workers[measurement.spec.name]
                    seconds = worker.run(workload, measurement.at_once[workload.name], self._plan.turn)
                    measurement.seconds.setdefault(workload.name, []).extend(seconds)
                    self._rest(worker, workload)

    def _rest(self, worker: Worker, workload: Workload) -> None:
        if workload.is_long:
            worker.ask("rest")

    def _compare(
        self, workload: Workload, mine: Sequence[Measurement], vectors: dict[str, NDArray[np.float32]]
    ) -> None:
        """No program is fast by being wrong."""
        if self._reference not in vectors:
            failed = any(m.spec.name == self._reference and workload.name in m.gaps for m in mine)
            if failed or not mine or self._reference not in self._workers:
                return
            vectors[self._reference] = self._workers[self._reference].warm(workload, tries=0)[1]
        if workload.kind == "rerank":  # scores: all of them are one vector
            vectors = {name: scores.T for name, scores in vectors.items()}
        reference = _unit(vectors[self._reference])
        for measurement in mine:
            found = vectors.get(measurement.spec.name)
            if found is not None:
                # half the squared distance of unit vectors: exact near 0, as 1 - cosine is not
                distances = np.sum((_unit(found) - reference) ** 2, axis=1) / 2
                measurement.distance[workload.name] = float(distances.max())


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    exact = vectors.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    return exact

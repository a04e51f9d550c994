"""One program in a process of its own: JSON lines on standard input and output, one answer a command."""

from __future__ import annotations

import base64
import json
import math
import os
import resource
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from modernbert_llama.synthetic import CheckpointSpec

from benchmarks.programs import ProgramSpec, load_class
from benchmarks.programs.base import VectorProgram
from benchmarks.shapes import Files
from benchmarks.workloads import QUERY, Workload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.programs.base import Program

__all__ = ["configuration"]

_PAUSE: Final = 0.05  # seconds in which the threads of the program before stop spinning


def configuration(spec: ProgramSpec, files: Files, n_threads: int) -> str:
    """What a worker is told at its start, as JSON."""
    value: dict[str, Any] = {
        "spec": asdict(spec),
        "shape": asdict(files.spec),
        "folder": str(files.folder),
        "task": files.task,
    }
    value["n_threads"] = n_threads
    return json.dumps(value)


class _Worker:
    """The commands."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._spec = ProgramSpec(**config["spec"])
        shape = {key: _tuples(value) for key, value in config["shape"].items()}
        self._files = Files(Path(config["folder"]), CheckpointSpec(**shape), config["task"])
        self._n_threads: int = config["n_threads"]
        self._program: Program | None = None

    def prepare(self) -> dict[str, Any]:
        """Make the program's files."""
        load_class(self._spec, self._files.task).prepare(self._spec, self._files)
        return {}

    def load(self) -> dict[str, Any]:
        """Seconds to load the model, and from the start of loading to the first vector. Imports come before."""
        program_class = load_class(self._spec, self._files.task)
        start = time.perf_counter()
        self._program = program_class(self._spec, self._files, self._n_threads)
        loaded = time.perf_counter()
        if self._files.task == "embed":
            self._call(QUERY, QUERY.rows)
        first = time.perf_counter()
        return {"load": loaded - start, "first": first - start}

    def memory(self, length: int) -> dict[str, Any]:
        """Bytes resident at most so far, after one text of ``length`` tokens."""
        self._call(Workload("batch", 1, length), 1)
        return {"bytes": _peak_resident()}

    def warm(self, workload: dict[str, Any], tries: int) -> dict[str, Any]:
        """Try each packing ``tries`` times (0: the first only, but those of texts): the fastest, and the vectors."""
        work = Workload(**workload)
        packings = self._loaded().packings(work)
        if tries == 0 and not work.is_text:
            packings = packings[:1]
        seconds: dict[int, float] = {}
        vectors = None
        for at_once in packings:
            seconds[at_once] = math.inf
            for _ in range(max(tries, 1) if len(packings) > 1 else 1):
                elapsed, vectors = self._call(work, at_once)
                seconds[at_once] = min(seconds[at_once], elapsed)
        assert vectors is not None
        best = min(seconds, key=lambda at_once: seconds[at_once])
        encoded = base64.b64encode(vectors.tobytes()).decode()
        return {"at_once": best, "seconds": seconds[best], "shape": vectors.shape, "vectors": encoded}

    def run(self, workload: dict[str, Any], at_once: int, turn: float) -> dict[str, Any]:
        """Seconds of each call, until ``turn`` seconds are over."""
        work = Workload(**workload)
        time.sleep(_PAUSE)
        if work.is_long:
            self._call(QUERY, QUERY.rows)
        seconds: list[float] = []
        while not seconds or sum(seconds) < turn:
            seconds.append(self._call(work, at_once)[0])
        return {"seconds": seconds}

    def rest(self) -> dict[str, Any]:
        """Give memory back."""
        self._loaded().rest()
        return {}

    def _loaded(self) -> Program:
        assert self._program is not None, "load comes first"
        return self._program

    def _call(self, work: Workload, at_once: int) -> tuple[float, NDArray[np.float32]]:
        program = self._loaded()
        if work.is_text:
            texts = work.texts()
            start = time.perf_counter()
            vectors = program.embed_texts(texts, at_once)
        else:
            assert isinstance(program, VectorProgram)
            ids = work.ids(self._files.spec)
            start = time.perf_counter()
            vectors = program.embed_ids(ids, at_once)
        return time.perf_counter() - start, vectors


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _peak_resident() -> int:
    """Of this program alone: Linux counts in ru_maxrss what the parent had when it started the process."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Answer until the input ends. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    config = json.loads(sys.argv[1])
    worker = _Worker(config)
    for line in sys.stdin:
        command = json.loads(line)
        name = command.pop("do")
        try:
            answer = getattr(worker, name)(**command)
        except Exception as error:  # a program that fails is a row of the table that says so
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

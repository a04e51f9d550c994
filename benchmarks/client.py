"""The benchmark's side of a worker."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from benchmarks.programs import ProgramSpec
from benchmarks.shapes import ROOT, Files
from benchmarks.worker import configuration
from benchmarks.workloads import Workload

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Worker", "WorkerError"]

# a build named by a folder must win over an editable installation, whose finder comes before sys.path
_START = """
import runpy, sys
build = sys.argv.pop(1)
if build:
    sys.meta_path[:] = [finder for finder in sys.meta_path if "Redirecting" not in type(finder).__name__]
    sys.path.insert(0, build)
runpy.run_module("benchmarks.worker", run_name="__main__")
"""


class WorkerError(Exception):
    """The program failed, or its process ended."""


class Worker:
    """A program's process; its standard error is appended to ``log``."""

    def __init__(self, spec: ProgramSpec, files: Files, n_threads: int, log: Path) -> None:
        self.spec = spec
        threads = str(n_threads)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, threads), "TOKENIZERS_PARALLELISM": "true"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        environment |= {"CI": "true", "NNCF_CI": "1"}  # no telemetry, whose process would outlive the run
        command = [sys.executable, "-c", _START, spec.build, configuration(spec, files, n_threads)]
        self._log: TextIO = log.open("a", encoding="utf-8")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
            encoding="utf-8",
        )

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            assert stream is not None
            stream.close()

    def ask(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Run a command of the worker. Raises :class:`WorkerError`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": name, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # said below
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"its process ended (status {self._process.wait()}), see {self._log.name}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def warm(self, workload: Workload, tries: int) -> tuple[int, NDArray[np.float32], float]:
        """The fastest packing, the vectors, and the seconds."""
        answer = self.ask("warm", workload=asdict(workload), tries=tries)
        data = np.frombuffer(base64.b64decode(answer["vectors"]), np.float32)
        return answer["at_once"], data.reshape(answer["shape"]), answer["seconds"]

    def run(self, workload: Workload, at_once: int, turn: float) -> list[float]:
        """Seconds of each call of one turn."""
        seconds: list[float] = self.ask("run", workload=asdict(workload), at_once=at_once, turn=turn)["seconds"]
        return seconds

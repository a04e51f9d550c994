"""The processor's peak: compiles and runs ``peak.cpp``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["PeakProbe", "reachable"]

_EXACT_FIRST: Final = ("f32", "bf16", "int8")


def reachable(best: Mapping[str, float], precision: str) -> float | None:
    """The peak of what a program of ``precision`` may multiply in: a more exact type that is faster there, too."""
    if precision not in best:
        return None
    return max(best[p] for p in _EXACT_FIRST[: _EXACT_FIRST.index(precision) + 1] if p in best)


class PeakProbe:
    """10^9 operations a second by precision; the best of all calls. None where there is no compiler."""

    def __init__(self, folder: Path, n_threads: int) -> None:
        self._n_threads = n_threads
        self._program = folder / "peak"
        self.best: dict[str, float] = {}
        compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)
        self._usable = compiler is not None
        if compiler is not None:
            folder.mkdir(parents=True, exist_ok=True)
            flags = ["-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-pthread"]
            source = Path(__file__).with_name("peak.cpp")
            subprocess.run([compiler, *flags, str(source), "-o", str(self._program)], check=True)

    def measure(self) -> None:
        """Once more, all threads; half a second or so."""
        if not self._usable:
            return
        command = [str(self._program), str(self._n_threads)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for precision, value in json.loads(output).items():
            if value is not None:
                self.best[precision] = max(value, self.best.get(precision, 0.0))

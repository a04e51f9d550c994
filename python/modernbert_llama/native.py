"""The one place that imports the native extension: a helpful message when it is missing, and its log in ``logging``."""

from __future__ import annotations

import atexit
import logging

try:
    from modernbert_llama import _core
except ImportError as error:
    raise ImportError(
        f"the native extension of modernbert_llama could not be loaded ({error}); "
        "build and install the package with: pip install ."
    ) from error

__all__ = ["Engine", "batch_plan", "quantize", "read_metadata", "read_tensors"]

Engine = _core.Engine
batch_plan = _core.batch_plan
quantize = _core.quantize
read_metadata = _core.read_metadata
read_tensors = _core.read_tensors

_logger = logging.getLogger("modernbert_llama")
_logger.addHandler(logging.NullHandler())


class _LineLog:
    """Joins the pieces of a line that llama.cpp logs one by one."""

    def __init__(self) -> None:
        self._pending = ""

    def __call__(self, level: int, text: str) -> None:
        self._pending += text
        while "\n" in self._pending:
            line, self._pending = self._pending.split("\n", 1)
            if line.strip(". "):
                _logger.log(level, "%s", line)


_core.set_log(_LineLog())
# at exit Python can no longer be called from a thread of llama.cpp
atexit.register(_core.set_log, None)

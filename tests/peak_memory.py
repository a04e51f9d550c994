"""The peak memory of a command, from a launcher so small that it does not count: a child starts with its parent's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

_LAUNCHER = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(status)
"""


def peak_memory(command: Sequence[str | os.PathLike[str]], environment: Mapping[str, str] | None = None) -> int:
    """Bytes resident at most, of ``command``, which must succeed; this interpreter's module search path is its own."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(environment or {})}
    launcher = [sys.executable, "-S", "-c", _LAUNCHER, *(os.fspath(word) for word in command)]
    done = subprocess.run(launcher, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return int(done.stdout.splitlines()[-1])

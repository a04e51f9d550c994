"""Conversions in processes of their own, stopped by real signals at any moment, or several at once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from modernbert_llama.cache import converted
from modernbert_llama.checkpoint import content_sha256
from modernbert_llama.convert import convert
from modernbert_llama.gguf_header import read_header
from modernbert_llama.synthetic import CheckpointSpec, write_checkpoint

SPEC = CheckpointSpec("medium", 12, 256, 384, 4, seed=41)
STARTED = "convert"
# importing takes longer than converting: signals are counted from the line that says that it begins
START = f"""
import logging, sys
from modernbert_llama.cache import converted
from modernbert_llama.convert import convert
logging.basicConfig(level=logging.INFO)
print({STARTED!r}, flush=True)
"""
CONVERT = f"{START}convert(sys.argv[1], sys.argv[2], outtype='q8_0')"
CACHED = f"{START}print(converted(sys.argv[1], 'q8_0', cache_dir=sys.argv[2]))"
ROUNDS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("medium") / "medium", SPEC)


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, float]:
    """The file as it must be, and the seconds that it takes."""
    start = time.perf_counter()
    path = convert(folder, tmp_path_factory.mktemp("whole") / "model.gguf", outtype="q8_0")
    return path.read_bytes(), time.perf_counter() - start


def heed_signals() -> None:
    """A background job of a shell has SIGINT ignored, and one under nohup SIGHUP, which is inherited."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(code: str, *arguments: Path) -> subprocess.Popen[str]:
    """A process that has imported everything and begins to convert."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        preexec_fn=heed_signals,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"{STARTED}\n"
    return process


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def wait_for_hidden(process: subprocess.Popen[str], folder: Path) -> Path:
    """The file that ``process`` writes, as soon as it has begun."""
    while not (found := list(folder.glob(".*.tmp"))):
        assert process.poll() is None
    return found[0]


def moments(seconds: float, seed: int) -> list[float]:
    """From the start to a little after the end."""
    stream = random.Random(seed)
    return [stream.uniform(0, 1.2 * seconds) for _ in range(ROUNDS)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_conversion_that_is_stopped_leaves_nothing(
    folder: Path, whole: tuple[bytes, float], tmp_path: Path, number: signal.Signals
) -> None:
    statuses = set()
    for moment in moments(whole[1], number):
        process = start(CONVERT, folder, tmp_path / "model.gguf")
        time.sleep(moment)
        process.send_signal(number)
        error = process.communicate()[1]
        statuses.add(process.returncode)
        assert process.returncode in (0, -number), error
        if process.returncode == 0 or (tmp_path / "model.gguf").exists():
            # stopped too late: it is whole
            assert (tmp_path / "model.gguf").read_bytes() == whole[0]
            (tmp_path / "model.gguf").unlink()
        assert names(tmp_path) == []
    assert -number in statuses, "one at least was stopped"


def test_a_killed_conversion_leaves_nothing_after_the_next(
    folder: Path, whole: tuple[bytes, float], tmp_path: Path
) -> None:
    left = 0
    for moment in moments(whole[1], seed=9):
        process = start(CONVERT, folder, tmp_path / "model.gguf")
        time.sleep(moment)
        process.kill()
        process.communicate()
        found = names(tmp_path)
        assert set(found) <= {"model.gguf", ".model.gguf.tmp"}
        left += ".model.gguf.tmp" in found
        if "model.gguf" in found:
            assert (tmp_path / "model.gguf").read_bytes() == whole[0]
            (tmp_path / "model.gguf").unlink()
    assert left, "one at least was killed while it wrote"
    convert(folder, tmp_path / "model.gguf", outtype="q8_0")
    assert names(tmp_path) == ["model.gguf"]
    assert (tmp_path / "model.gguf").read_bytes() == whole[0]


def test_what_a_killed_process_left_in_the_cache_goes_with_any_conversion(
    folder: Path, whole: tuple[bytes, float], tmp_path: Path
) -> None:
    process = start(CACHED, folder, tmp_path)
    wait_for_hidden(process, tmp_path)
    process.kill()
    process.communicate()
    (left,) = names(tmp_path)
    assert left.startswith(".medium-q8_0-")
    other = converted(folder, "f16", cache_dir=tmp_path)
    assert names(tmp_path) == [other.name]
    assert converted(folder, "q8_0", cache_dir=tmp_path).read_bytes() == whole[0]


@pytest.mark.parametrize("n", [2, 4])
def test_processes_at_once(folder: Path, whole: tuple[bytes, float], tmp_path: Path, n: int) -> None:
    processes = [start(CACHED, folder, tmp_path) for _ in range(n)]
    answers = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * n, answers
    (name,) = names(tmp_path)
    assert {printed.strip() for printed, _ in answers} == {str(tmp_path / name)}
    assert (tmp_path / name).read_bytes() == whole[0]
    assert content_sha256(folder) == read_header(tmp_path / name).metadata["modernbert_llama.source_sha256"]


@pytest.mark.parametrize("n", [2, 4])
def test_of_processes_at_once_one_converts(folder: Path, whole: tuple[bytes, float], tmp_path: Path, n: int) -> None:
    first = start(CACHED, folder, tmp_path)
    hidden = wait_for_hidden(first, tmp_path)
    first.send_signal(signal.SIGSTOP)
    file = hidden.stat().st_ino
    others = [start(CACHED, folder, tmp_path) for _ in range(n - 1)]
    for process in others:
        assert process.stderr is not None
        assert "waiting" in process.stderr.readline()
    first.send_signal(signal.SIGCONT)
    answers = [process.communicate() for process in (first, *others)]
    assert [process.returncode for process in (first, *others)] == [0] * n, answers
    (name,) = names(tmp_path)
    assert (tmp_path / name).read_bytes() == whole[0]
    assert (tmp_path / name).stat().st_ino == file, "it is the one that the first process wrote"


def test_one_of_several_processes_is_killed(folder: Path, whole: tuple[bytes, float], tmp_path: Path) -> None:
    for moment in moments(whole[1], seed=5)[:6]:
        cache = tmp_path / f"{moment:.4f}"
        cache.mkdir()
        processes = [start(CACHED, folder, cache) for _ in range(3)]
        time.sleep(moment / 2)
        processes[0].kill()
        answers: Sequence[tuple[str, str]] = [process.communicate() for process in processes]
        assert [process.returncode for process in processes[1:]] == [0, 0], answers
        (name,) = names(cache)
        assert (cache / name).read_bytes() == whole[0]


def test_a_process_that_runs_is_not_cleaned_away(folder: Path, whole: tuple[bytes, float], tmp_path: Path) -> None:
    process = start(CACHED, folder, tmp_path)
    wait_for_hidden(process, tmp_path)
    process.send_signal(signal.SIGSTOP)
    converted(folder, "f16", cache_dir=tmp_path)
    assert len(names(tmp_path)) == 2
    process.send_signal(signal.SIGCONT)
    printed, error = process.communicate()
    assert process.returncode == 0, error
    assert Path(printed.strip()).read_bytes() == whole[0]
    assert not list(tmp_path.glob(".*"))

"""A file that appears only when it is whole: written beside its place under a hidden name, then renamed.

The hidden file is its writer's lock as well: whoever writes the same target waits for its turn, and what a killed
process has left is not locked, so that the next writer takes it over.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from modernbert_llama.errors import ConversionError, InputError, ModernBertLlamaError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["commit", "hidden_file", "need_space", "remove_abandoned", "target_path"]

_log = logging.getLogger(__name__)

_SUFFIX = ".tmp"
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # a file system that has none
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def target_path(output: str | os.PathLike[str]) -> Path:
    """``output`` as a path that a file can be written to; raises ``InputError`` for a folder or a missing one."""
    target = Path(output).expanduser()
    if target.is_dir():
        raise InputError(f"output {target} is a folder; give the name of the file to write")
    if not target.parent.is_dir():
        raise InputError(f"output folder {target.parent} does not exist")
    return target


@contextmanager
def hidden_file(target: Path) -> Iterator[Path]:
    """The path of an empty file beside ``target``, this writer's alone; removed at the end unless it was committed.

    Waits while another thread or process has it. Ctrl-C, SIGTERM and SIGHUP clean up too, the latter two only where
    nobody handles them and only in the main thread. Raises ``ConversionError`` for what the system refuses.
    """
    try:
        with _undone_by_signals(), _claimed(target) as path:
            yield path
    except ModernBertLlamaError:
        raise
    except OSError as error:
        raise ConversionError(f"cannot write {target}: {error.strerror or error}") from error


def need_space(target: Path, needed: int) -> None:
    """Raises ``ConversionError`` unless the disk of ``target`` has ``needed`` bytes free."""
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise ConversionError(
            f"cannot write {target}: it needs {needed / 1e6:.0f} MB, and the disk has {free / 1e6:.0f} MB free"
        )


def commit(path: Path, target: Path) -> None:
    """Puts a hidden file that is whole in its place, once it is on the disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
    path.replace(target)


def remove_abandoned(folder: Path) -> None:
    """Removes hidden files whose writers were killed; those of running writers stay."""
    for path in folder.glob(f".*{_SUFFIX}"):
        with suppress(OSError):
            if fcntl is None:
                path.unlink()  # Windows refuses it for an open file
                continue
            file = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _unlink_if_same(path, file)
            finally:
                os.close(file)


@contextmanager
def _claimed(target: Path) -> Iterator[Path]:
    path, file = _claim(target)
    try:
        yield path
    finally:
        if file is None:
            with suppress(OSError):
                path.unlink()
        else:
            with suppress(OSError):
                _unlink_if_same(path, file)
            # not by closing alone: a forked child may have the file open
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)
            os.close(file)


def _claim(target: Path) -> tuple[Path, int | None]:
    """The hidden file, and its descriptor with the lock; a name of its own and None where there are no locks."""
    path = target.with_name(f".{target.name[:200]}{_SUFFIX}")
    while fcntl is not None:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(file, target)
            if _is_same(path, file):
                os.ftruncate(file, 0)
                return path, file
        except OSError as error:
            os.close(file)
            if error.errno not in _NO_LOCKS:
                raise
            break
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its writer has renamed or removed it: again
    return target.with_name(f".{target.name[:200]}.{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"), None


def _lock(file: int, target: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.info("%s is being written by another thread or process: waiting", target)
        fcntl.flock(file, fcntl.LOCK_EX)


def _is_same(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _unlink_if_same(path: Path, file: int) -> None:
    # under the lock nobody else gives or takes this name while it is that of our file
    if _is_same(path, file):
        path.unlink()


class _EndedError(BaseException):
    """A signal that ends the process, on its way through what must be undone."""


@contextmanager
def _undone_by_signals() -> Iterator[None]:
    """Signals that end a process without a word are raised here first, and then end it as they would have."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        for each in handled:
            signal.signal(each, signal.SIG_IGN)  # a second one must not break the cleaning up
        raise _EndedError

    try:
        for number in handled:
            signal.signal(number, end)
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
        if received:
            signal.raise_signal(received[0])

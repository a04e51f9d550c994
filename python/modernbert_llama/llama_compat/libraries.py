"""The patched libraries under the real ``llama_cpp`` package: where they are, and whether everything fits.

Standard library only, and the engine is not imported, so that a broken installation can still be explained.
"""

from __future__ import annotations

import ast
import ctypes
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import re
import struct
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

from modernbert_llama.errors import LlamaCppError

__all__ = ["Build", "check_environment", "environment", "read_build", "use_with_llama_cpp"]

PREFIX = "" if sys.platform == "win32" else "lib"
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
VARIABLES = ("LLAMA_CPP_LIB_PATH", "MTMD_CPP_LIB")  # what the bindings read; libmtmd is vision and audio
REINSTALL = "install modernbert-llama again, with pip install --force-reinstall --no-deps"
_TAG = re.compile(rb"modernbert-llama-build:([\w.+-]+):\0")


@dataclasses.dataclass(frozen=True)
class Build:
    """What the build wrote down about the libraries.

    ``source`` is the upstream (or ``LLAMA_CPP_SOURCE_DIR=...``), ``llama_cpp_python`` the release whose bindings fit
    ("" if none is known), ``tag`` the mark that each library carries, ``libraries`` all files, libllama first.
    """

    folder: Path
    source: str
    llama_cpp_python: str
    tag: str
    libraries: tuple[Path, ...]


def read_build() -> Build:
    """The libraries of this installation. Raises LlamaCppError if there are none."""
    # beside the extension, which an editable installation keeps away from the Python files
    core = importlib.util.find_spec("modernbert_llama._core")
    if core is None or core.origin is None:
        raise LlamaCppError(f"the native part of modernbert_llama is not built: {REINSTALL}")
    package = Path(core.origin).resolve().parent
    folder = package / "llama_compat" / "lib"
    record = folder / "build.json"
    try:
        values = json.loads(record.read_text(encoding="utf-8"))
        source, version, tag = (str(values[key]) for key in ("source", "llama_cpp_python", "tag"))
        names = [str(name) for name in values["libraries"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LlamaCppError(f"{record}: missing or damaged ({error}): {REINSTALL}") from error
    libraries = [folder / f"{PREFIX}llama{SUFFIX}", *(package / name for name in names)]
    mtmd = folder / f"{PREFIX}mtmd{SUFFIX}"
    return Build(folder, source, version, tag, (*libraries, *([mtmd] if mtmd.is_file() else [])))


def environment() -> dict[str, str]:
    """The environment variables that make llama-cpp-python load the patched libraries.

    Raises LlamaCppError when llama-cpp-python is missing or of another release than the libraries, when a library is
    missing, of another build or cannot be loaded; warns when it has a backend, such as CUDA, that they lack.
    """
    build = read_build()
    _check_version(build)
    _check_files(build)
    _warn_of_backends(build)
    return dict.fromkeys(VARIABLES, str(build.folder))


def use_with_llama_cpp() -> None:
    """Make ``import llama_cpp`` load the patched libraries, in this process and in those that it starts.

    Call it before anything imports llama_cpp. Raises LlamaCppError as `environment` does, and when it is too late or
    the environment names other libraries; nothing is changed then. A second call does nothing.
    """
    if "llama_cpp" in sys.modules:
        bindings = sys.modules.get("llama_cpp.llama_cpp")
        loaded = str(getattr(getattr(bindings, "_lib", None), "_name", "an unknown file"))
        build = read_build()
        if Path(loaded) == build.libraries[0]:
            return
        raise LlamaCppError(
            f"llama_cpp is already imported, with the library {loaded}: call use_with_llama_cpp() before the first "
            "import of llama_cpp, be it by another package, or set LLAMA_CPP_LIB_PATH before Python starts "
            f"(to {build.folder})"
        )
    variables = environment()
    for name, value in variables.items():
        current = os.environ.get(name)
        if current is not None and Path(current) != Path(value):
            raise LlamaCppError(
                f"{name} is already set, to {current}{_what_is_in(Path(current))}: unset it, or set it to {value}"
            )
    os.environ.update(variables)


def check_environment(environ: Mapping[str, str] | None = None) -> Build:
    """Whether a program started with ``environ`` (default: this process's) gets the patched libraries in full.

    Raises LlamaCppError, saying what to change, if it does not.
    """
    env = os.environ if environ is None else environ
    for name, value in environment().items():
        current = env.get(name)
        advice = "export $(python -m modernbert_llama.llama_compat)"
        if current is None:
            raise LlamaCppError(f"{name} is not set, llama_cpp would load its own libraries: {advice}")
        if Path(current) != Path(value):
            raise LlamaCppError(
                f"{name} is {current}{_what_is_in(Path(current))}, but the patched libraries are in {value}: {advice}"
            )
    return read_build()


def _what_is_in(folder: Path) -> str:
    if not folder.is_dir():
        return " (no such folder)"
    if not any((folder / f"{prefix}llama{SUFFIX}").is_file() for prefix in ("lib", PREFIX)):
        return " (which holds no libllama)"
    return " (other libraries)"


def _installed() -> tuple[str, Path]:
    """Version and folder of the llama_cpp that an import would find, without importing it."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        fitting = read_build().llama_cpp_python
        wanted = f"llama-cpp-python=={fitting}" if fitting else "llama-cpp-python"
        raise LlamaCppError(f"llama-cpp-python is not installed: pip install {wanted}")
    origin = Path(spec.origin)
    # the package itself before its metadata: with two installations only one of them would be imported
    for statement in ast.parse(origin.read_text(encoding="utf-8")).body:
        if (
            isinstance(statement, ast.Assign)
            and isinstance(statement.value, ast.Constant)
            and any(isinstance(target, ast.Name) and target.id == "__version__" for target in statement.targets)
        ):
            return str(statement.value.value), origin.parent
    try:
        return importlib.metadata.version("llama-cpp-python"), origin.parent
    except importlib.metadata.PackageNotFoundError:
        return "unknown", origin.parent


def _check_version(build: Build) -> None:
    version, folder = _installed()
    if not build.llama_cpp_python:
        raise LlamaCppError(
            f"llama-cpp-python {version} is installed in {folder}, but the libraries are built from {build.source}, "
            "and which release's bindings fit is not known: build with -C cmake.define.LLAMA_CPP_PYTHON_VERSION="
            f"{version.partition('+')[0]} if you know that these do"
        )
    if version.partition("+")[0] != build.llama_cpp_python:
        raise LlamaCppError(
            f"llama-cpp-python {version} is installed in {folder}, but the libraries are built from {build.source}, "
            f"whose functions and structures differ: pip install llama-cpp-python=={build.llama_cpp_python}, "
            "or build modernbert-llama with -C cmake.define.UPSTREAM= one of the upstreams that "
            "`modernbert-llama patches list` names"
        )


def _check_files(build: Build) -> None:
    for library in build.libraries:
        try:
            content = library.read_bytes()
        except OSError as error:
            raise LlamaCppError(f"{library}: missing or unreadable ({error}): {REINSTALL}") from error
        if _is_truncated(content):
            raise LlamaCppError(f"{library}: the file is cut short: {REINSTALL}")
        found = _TAG.search(content)
        tag = found.group(1).decode() if found else "elsewhere"
        if tag != build.tag:
            raise LlamaCppError(
                f"{library} is built from {tag}, the rest from {build.tag}: two builds are mixed; {REINSTALL}"
            )
    if sys.platform != "win32":
        for library in build.libraries:
            if library.parent == build.folder:
                try:
                    ctypes.CDLL(str(library))
                except OSError as error:
                    raise LlamaCppError(f"{library} cannot be loaded ({error}): {REINSTALL}") from error


def _is_truncated(content: bytes) -> bool:
    """Whether an ELF file ends before its table of sections, which linkers put last: to load it would be a SIGBUS."""
    if content[:6] != b"\x7fELF\x02\x01" or len(content) < 64:
        return not content
    (offset,) = struct.unpack_from("<Q", content, 0x28)
    size, number = struct.unpack_from("<HH", content, 0x3A)
    return bool(offset + size * number > len(content))


def _warn_of_backends(build: Build) -> None:
    def backends(names: list[str]) -> set[str]:
        found = [re.match(r"(?:lib)?ggml-([a-z]+)[-.]", name) for name in names]
        return {match.group(1) for match in found if match}

    theirs = backends([path.name for path in (_installed()[1] / "lib").glob("*")])
    lacking = sorted(theirs - backends([path.name for path in build.libraries]) - {"base", "cpu", "modernbert"})
    if lacking:
        options = " ".join(f"-C cmake.define.GGML_{name.upper()}=ON" for name in lacking)
        warnings.warn(
            f"llama-cpp-python is installed with {', '.join(lacking)}, which the patched libraries lack: "
            f"build modernbert-llama with {options}",
            RuntimeWarning,
            stacklevel=3,
        )

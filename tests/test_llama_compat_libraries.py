"""What ``python -m modernbert_llama.llama_compat`` and `use_with_llama_cpp` say when something is wrong.

Each case runs in a process of its own, on a copy of the package, beside a folder that looks like an installed
llama-cpp-python as far as is read before it is imported. tests/test_llama_cpp.py has the real one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import modernbert_llama
import pytest
from modernbert_llama.llama_compat.libraries import read_build

# an editable installation finds the package by a hook that comes before PYTHONPATH
PRELUDE = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "frozen" in str(getattr(finder, "__module__", ""))]
"""
USE = "import modernbert_llama; modernbert_llama.use_with_llama_cpp()"
MODULE = """
import runpy
sys.argv = ["llama_compat", *{}]
runpy.run_module("modernbert_llama.llama_compat", run_name="__main__")
"""
VERSION = read_build().llama_cpp_python


class Place:
    """A copy of the package that a test may break, and an llama_cpp beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.package = folder / "modernbert_llama"
        native = read_build().libraries[0].parents[2]
        for source in (Path(modernbert_llama.__file__).parent, native):
            shutil.copytree(
                source, self.package, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True
            )
        self.lib = self.package / "llama_compat" / "lib"
        self.llama_cpp = folder / "llama_cpp"
        self.install(VERSION)

    def install(self, version: str) -> None:
        self.llama_cpp.mkdir(exist_ok=True)
        (self.llama_cpp / "__init__.py").write_text(f'__version__ = "{version}"\n')

    def run(self, program: str, **variables: str) -> subprocess.CompletedProcess[str]:
        env = {key: value for key, value in os.environ.items() if key not in ("LLAMA_CPP_LIB_PATH", "MTMD_CPP_LIB")}
        return subprocess.run(
            [sys.executable, "-c", PRELUDE + program],
            env={**env, **variables, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def refuses(self, *words: str, program: str = USE, **variables: str) -> None:
        """Both ways in refuse, and the message holds the words."""
        used = self.run(program, **variables)
        assert used.returncode == 1
        assert "modernbert_llama.errors.LlamaCppError: " in used.stderr
        message = used.stderr.strip().splitlines()[-1]
        for word in words:
            assert word in message
        if program == USE and not variables:
            printed = self.run(MODULE.format([]))
            assert (printed.returncode, printed.stdout) == (1, "")
            assert printed.stderr == message.replace("modernbert_llama.errors.LlamaCppError", "error") + "\n"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_environment_line(place: Place) -> None:
    printed = place.run(MODULE.format([]))
    assert (printed.returncode, printed.stderr) == (0, "")
    lines = dict(line.split("=", 1) for line in printed.stdout.splitlines())
    assert lines == {"LLAMA_CPP_LIB_PATH": str(place.lib), "MTMD_CPP_LIB": str(place.lib)}
    checked = place.run(MODULE.format(["--check"]), **lines)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith(f"ok: llama-cpp-python {VERSION} loads {place.lib}")
    if os.name == "posix":
        code = "import os; print(os.environ['LLAMA_CPP_LIB_PATH'])"
        shell = f'export $(printf "%s" "{printed.stdout}") && {sys.executable} -c "{code}"'
        assert subprocess.run(["sh", "-c", shell], capture_output=True, text=True).stdout.strip() == str(place.lib)


def test_in_the_process(place: Place) -> None:
    used = place.run(USE + "\nimport os; print(os.environ['LLAMA_CPP_LIB_PATH'], os.environ['MTMD_CPP_LIB'])")
    assert (used.returncode, used.stdout.split()) == (0, [str(place.lib)] * 2), used.stderr


def test_a_path_with_a_space_is_pointed_out(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    printed = Place(folder).run(MODULE.format([]))
    assert printed.returncode == 0
    assert "quotes" in printed.stderr


def test_llama_cpp_is_absent(place: Place) -> None:
    shutil.rmtree(place.llama_cpp)
    place.refuses("llama-cpp-python is not installed", f"pip install llama-cpp-python=={VERSION}")


@pytest.mark.parametrize("version", ["0.3.2", "0.3.37", "0.2.90"])
def test_another_release(place: Place, version: str) -> None:
    place.install(version)
    place.refuses(
        f"llama-cpp-python {version} is installed",
        f"llama-cpp-python-{VERSION}",
        f"pip install llama-cpp-python=={VERSION}",
    )


def test_a_local_version_is_the_same_release(place: Place) -> None:
    place.install(f"{VERSION}+cu124")
    assert place.run(USE).returncode == 0


def test_a_tree_whose_bindings_are_not_known(place: Place) -> None:
    record = json.loads((place.lib / "build.json").read_text())
    record |= {"source": "LLAMA_CPP_SOURCE_DIR=/somewhere", "llama_cpp_python": ""}
    (place.lib / "build.json").write_text(json.dumps(record))
    place.refuses("LLAMA_CPP_SOURCE_DIR=/somewhere", VERSION, f"LLAMA_CPP_PYTHON_VERSION={VERSION}")


def test_llama_cpp_is_already_imported(place: Place) -> None:
    place.refuses("already imported", "before the first import", program=f"import llama_cpp; {USE}")


def no_core(place: Place) -> str:
    for file in place.package.glob("_core.*.so"):
        file.unlink()
    return "not built"


def no_record(place: Place) -> str:
    (place.lib / "build.json").unlink()
    return "build.json: missing"


def damaged_record(place: Place) -> str:
    (place.lib / "build.json").write_text('{"source": "x"}')
    return "build.json: missing or damaged"


def missing(place: Place, number: int) -> str:
    library = [place.lib / "libllama.so", *sorted(place.package.glob("lib*.so"))][number]
    library.unlink()
    return f"{library}: missing"


def other_build(place: Place) -> str:
    (library,) = place.package.glob("libggml-base*.so")
    content = library.read_bytes()
    tag = b"modernbert-llama-build:" + read_build().tag.encode()
    assert content.count(tag) == 1
    library.write_bytes(content.replace(tag, tag[:-4] + b"0000"))
    return "two builds are mixed"


def foreign(place: Place) -> str:
    (library,) = place.package.glob("libggml-base*.so")
    library.write_bytes(library.read_bytes().replace(b"modernbert-llama-build:", b"modernbert-llama-BUILD:"))
    return "built from elsewhere"


def truncated(place: Place) -> str:
    # behind the mark that names the build; the loader would map it and die of a SIGBUS
    (library,) = place.package.glob("libllama-*.so")
    content = library.read_bytes()
    end = content.index(b"modernbert-llama-build:") + 200
    library.write_bytes(content[:end])
    return "cut short"


def lacking_a_function(place: Place) -> str:
    # as if libggml were older than libllama, but for the mark
    (library,) = place.package.glob("libggml-base*.so")
    content = library.read_bytes()
    assert b"ggml_flash_attn_ext\0" in content
    library.write_bytes(content.replace(b"ggml_flash_attn_ext\0", b"ggml_flash_attn_xxx\0"))
    return "cannot be loaded"


BREAKAGES: dict[str, Callable[[Place], str]] = {
    "extension": no_core,
    "record": no_record,
    "damaged record": damaged_record,
    **{f"file {number}": lambda place, number=number: missing(place, number) for number in range(5)},  # type: ignore[misc]
    "mixed": other_build,
    "foreign": foreign,
    "truncated": truncated,
    "function": lacking_a_function,
}


@pytest.mark.skipif(sys.platform != "linux", reason="the files are named as on Linux")
@pytest.mark.parametrize("name", BREAKAGES)
def test_broken_libraries(place: Place, name: str) -> None:
    place.refuses(BREAKAGES[name](place), "install modernbert-llama again")


def test_a_wrong_path_in_the_environment(place: Place, tmp_path: Path) -> None:
    empty, others = tmp_path / "empty", tmp_path / "others"
    empty.mkdir()
    others.mkdir()
    (others / read_build().libraries[0].name).touch()
    right = {"MTMD_CPP_LIB": str(place.lib), "LLAMA_CPP_LIB_PATH": str(place.lib)}
    for variable in right:
        for folder, words in (
            (tmp_path / "none", "no such folder"),
            (empty, "holds no libllama"),
            (others, "other libraries"),
        ):
            wrong = {**right, variable: str(folder)}
            place.refuses(f"{variable} is already set, to {folder}", words, f"set it to {place.lib}", **wrong)
            checked = place.run(MODULE.format(["--check"]), **wrong)
            assert (checked.returncode, checked.stdout) == (1, "")
            for word in (f"{variable} is {folder}", words, "export $(python -m modernbert_llama.llama_compat)"):
                assert word in checked.stderr
    checked = place.run(MODULE.format(["--check"]))
    assert checked.returncode == 1
    assert "LLAMA_CPP_LIB_PATH is not set" in checked.stderr


def test_a_backend_that_would_be_lost(place: Place) -> None:
    (place.llama_cpp / "lib").mkdir()
    for name in ("libllama.so", "libggml-cpu.so", "libggml-base.so.0", "libggml-cuda.so"):
        (place.llama_cpp / "lib" / name).touch()
    used = place.run(USE)
    assert used.returncode == 0
    assert "installed with cuda, which" in used.stderr
    assert "-C cmake.define.GGML_CUDA=ON" in used.stderr


def test_an_exception_leaves_the_environment_alone(place: Place) -> None:
    place.install("0.3.2")
    program = """
import os, modernbert_llama
try:
    modernbert_llama.use_with_llama_cpp()
except modernbert_llama.ModernBertLlamaError as error:
    print(isinstance(error, ImportError), "LLAMA_CPP_LIB_PATH" in os.environ, "modernbert_llama._core" in sys.modules)
"""
    assert place.run(program).stdout.split() == ["True", "False", "False"]

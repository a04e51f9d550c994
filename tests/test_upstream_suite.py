"""llama.cpp's own C++ tests of what the patches touch, built from the patched tree."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
TREE = ROOT / "third_party" / "llama-cpp-python-0.3.36"
BUILD = ROOT / "build" / "upstream-tests"
PROGRAMS = ("test-backend-ops", "test-llama-archs", "test-tokenizer-0", "test-tokenizer-1-spm")


@pytest.fixture(scope="session")
def programs() -> Path:
    if not TREE.is_dir():
        pytest.skip("the patched tree of the default upstream is not here (LLAMA_CPP_SOURCE_DIR was used?)")
    cmake = shutil.which("cmake")
    assert cmake, "the `test` extra brings cmake"
    options = ["LLAMA_BUILD_TESTS=ON", "LLAMA_BUILD_COMMON=ON", "LLAMA_BUILD_TOOLS=ON", "LLAMA_BUILD_SERVER=OFF"]
    options += ["LLAMA_BUILD_EXAMPLES=OFF", "LLAMA_BUILD_APP=OFF", "LLAMA_CURL=OFF", "CMAKE_BUILD_TYPE=Release"]
    subprocess.run([cmake, "-S", TREE, "-B", BUILD, "-G", "Ninja", *[f"-D{option}" for option in options]], check=True)
    subprocess.run([cmake, "--build", BUILD, "--target", *PROGRAMS], check=True)
    return BUILD / "bin"


def run(program: Path, *arguments: str | Path) -> str:
    result = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=1800, check=False)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-3000:]
    return output


@pytest.mark.parametrize("op", ["GEGLU_ERF", "GELU_ERF", "REGLU", "SWIGLU", "SIGMOID", "SCALE"])
def test_operations(programs: Path, op: str) -> None:
    # the CPU backend against the reference implementation, which runs the same op by another path
    output = run(programs / "test-backend-ops", "test", "-o", op, "-b", "CPU")
    assert "FAIL" not in output
    assert re.search(r"\b([1-9]\d*)/\1 tests passed", output)


def test_architectures(programs: Path) -> None:
    output = run(programs / "test-llama-archs")
    assert "FAIL" not in output


VOCABULARIES = sorted(path.name for path in TREE.glob("models/ggml-vocab-*.gguf.inp"))


@pytest.mark.parametrize("name", VOCABULARIES or ["none"])
def test_tokenizers(programs: Path, name: str) -> None:
    run(programs / "test-tokenizer-0", TREE / "models" / name.removesuffix(".inp"))


def test_sentencepiece_round_trip(programs: Path) -> None:
    run(programs / "test-tokenizer-1-spm", TREE / "models" / "ggml-vocab-llama-spm.gguf")

"""llama.cpp's own C++ tests of what the patches touch, built from the patched tree."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
TREE = ROOT / "third_party" / "llama-cpp-python-0.3.36"
BUILD = ROOT / "build" / "upstream-tests"
PROGRAMS = ("test-backend-ops", "test-packed-mulmat", "test-llama-archs", "test-tokenizer-0", "test-tokenizer-1-spm")
AVX2 = ("GGML_NATIVE=OFF", "GGML_AVX2=ON", "GGML_FMA=ON", "GGML_F16C=ON", "GGML_BMI2=ON")


def build(folder: Path, programs: tuple[str, ...], more_options: tuple[str, ...] = ()) -> Path:
    if not TREE.is_dir():
        pytest.skip("the patched tree of the default upstream is not here (LLAMA_CPP_SOURCE_DIR was used?)")
    cmake = shutil.which("cmake")
    assert cmake, "the `test` extra brings cmake"
    options = ["LLAMA_BUILD_TESTS=ON", "LLAMA_BUILD_COMMON=ON", "LLAMA_BUILD_TOOLS=ON", "LLAMA_BUILD_SERVER=OFF"]
    options += ["LLAMA_BUILD_EXAMPLES=OFF", "LLAMA_BUILD_APP=OFF", "LLAMA_CURL=OFF", "CMAKE_BUILD_TYPE=Release"]
    definitions = [f"-D{option}" for option in (*options, *more_options)]
    subprocess.run([cmake, "-S", TREE, "-B", folder, "-G", "Ninja", *definitions], check=True)
    subprocess.run([cmake, "--build", folder, "--target", *programs], check=True)
    return folder / "bin"


@pytest.fixture(scope="session")
def programs() -> Path:
    return build(BUILD, PROGRAMS)


@pytest.fixture(scope="session")
def avx2_programs() -> Path:
    """The tests of the kernels in a build for processors without AVX-512."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("not an x86 machine")
    return build(BUILD / "avx2", ("test-backend-ops", "test-packed-mulmat"), AVX2)


def run(program: Path, *arguments: str | Path) -> str:
    result = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=1800, check=False)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-3000:]
    return output


def run_operation(programs: Path, op: str, *arguments: str) -> None:
    # the CPU backend against the reference implementation, which runs the same op by another path
    output = run(programs / "test-backend-ops", "test", "-o", op, "-b", "CPU", *arguments)
    assert "FAIL" not in output
    assert re.search(r"\b([1-9]\d*)/\1 tests passed", output)


OPERATIONS = ["GEGLU_ERF", "GELU_ERF", "REGLU", "SWIGLU", "SIGMOID", "SCALE", "NORM", "NORM_MUL_ADD", "ROPE"]
KERNELS = ["GEGLU_ERF", "GELU_ERF", "NORM", "NORM_MUL_ADD", "ROPE"]


@pytest.mark.parametrize("op", OPERATIONS)
def test_operations(programs: Path, op: str) -> None:
    run_operation(programs, op)


def test_attention_over_ranges(programs: Path) -> None:
    run_operation(programs, "FLASH_ATTN_EXT", "-p", "gaps=")


def test_packed_products(programs: Path) -> None:
    run(programs / "test-packed-mulmat")


@pytest.mark.parametrize("op", KERNELS)
def test_operations_without_avx512(avx2_programs: Path, op: str) -> None:
    run_operation(avx2_programs, op)


def test_attention_over_ranges_without_avx512(avx2_programs: Path) -> None:
    run_operation(avx2_programs, "FLASH_ATTN_EXT", "-p", "gaps=")


def test_packed_products_without_avx512(avx2_programs: Path) -> None:
    run(avx2_programs / "test-packed-mulmat")


def test_architectures(programs: Path) -> None:
    output = run(programs / "test-llama-archs")
    assert "FAIL" not in output


VOCABULARIES = sorted(path.name for path in TREE.glob("models/ggml-vocab-*.gguf.inp"))


@pytest.mark.parametrize("name", VOCABULARIES or ["none"])
def test_tokenizers(programs: Path, name: str) -> None:
    run(programs / "test-tokenizer-0", TREE / "models" / name.removesuffix(".inp"))


def test_sentencepiece_round_trip(programs: Path) -> None:
    run(programs / "test-tokenizer-1-spm", TREE / "models" / "ggml-vocab-llama-spm.gguf")

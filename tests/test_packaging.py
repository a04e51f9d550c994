"""The source distribution holds the patched tree: a wheel builds from it with the package index out of reach."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
UNREACHABLE = "http://127.0.0.1:9/simple"  # the discard port: nobody answers


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "LLAMA_CPP_"))}
    result = subprocess.run(
        command, env={**environment, **(env or {})}, capture_output=True, text=True, timeout=1800, check=False
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the build's own requirements: what a machine without a network must have beforehand."""
    folder = tmp_path_factory.mktemp("tools")
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    # the index that pip is configured for may be set in the environment
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "build", "scikit-build-core", "pybind11", "unearth", "cmake", "ninja"],
        check=True,
    )
    subprocess.run([python, "-m", "pip", "install", "-q", "gguf", "huggingface_hub", "tokenizers", "typer"], check=True)
    return python


def test_a_wheel_builds_from_the_source_distribution_without_a_network(tools: Path, tmp_path: Path) -> None:
    run(tools, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, ROOT)
    (archive,) = tmp_path.glob("*.tar.gz")
    print(f"source distribution: {archive.stat().st_size / 1e6:.1f} MB")
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert any(name.endswith("third_party/llama-cpp-python-0.3.36/src/models/modernbert.cpp") for name in names)
    assert not any("/.git/" in name or name.endswith(".gguf") for name in names)

    offline = {
        "PIP_INDEX_URL": UNREACHABLE,
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "0",
        "MODERNBERT_LLAMA_CACHE": str(tmp_path / "empty"),
        "XDG_CACHE_HOME": str(tmp_path / "empty"),
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    run(
        tools, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-cache-dir", "-w", tmp_path, archive,
        env=offline,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    print(f"wheel: {wheel.stat().st_size / 1e6:.1f} MB")
    with zipfile.ZipFile(wheel) as zip_file:
        names = zip_file.namelist()
    assert any(name.startswith("modernbert_llama/libllama-modernbert.") for name in names)
    assert "modernbert_llama/py.typed" in names
    assert "modernbert_llama/demo_golden.json" in names
    assert not any(name.startswith(("lib/", "include/", "bin/")) for name in names), names

    run(tools, "-m", "pip", "install", "--no-deps", "--no-index", wheel, env=offline)
    # from a folder that is no checkout, so that the installed package is what runs
    script = tools.parent / "modernbert-llama"
    output = subprocess.run([script, "demo"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert output.returncode == 0, output.stdout + output.stderr


def test_a_build_folder_is_of_one_llama_cpp(tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    assert cmake, "the `test` extra brings cmake"
    command = [cmake, "-S", str(ROOT), "-B", str(tmp_path / "build"), "-G", "Ninja"]
    command += [f"-DPython_EXECUTABLE={sys.executable}"]
    messages = []
    for name in ("one", "one", "other"):
        (tmp_path / name / "include").mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "include" / "llama.h").touch()
        tree = f"-DLLAMA_CPP_SOURCE_DIR={tmp_path / name}"
        done = subprocess.run([*command, tree], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode != 0, "an empty tree is built"
        messages.append(" ".join(done.stderr.split()))
    assert ["holds a build of" in message for message in messages] == [False, False, True]

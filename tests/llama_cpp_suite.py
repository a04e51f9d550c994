"""A pytest plugin under which llama-cpp-python's own tests run without the hub: `test_llama_cpp.py` starts it.

What is skipped and why, and which file stands for which model, is all here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

# the files that the tests of the two releases fetch, and what they get: see text_models.py
FILES: Final = {
    "Qwen3.5-0.8B-Q8_0.gguf": "llama.gguf",
    "qwen2-0_5b-instruct-q8_0.gguf": "llama.gguf",
    "stories15M-q4_0.gguf": "llama.gguf",
    "mamba-130m-hf.Q2_K.gguf": "mamba.gguf",
    "Falcon-H1-Tiny-90M-Instruct-Q2_K.gguf": "lfm2.gguf",
    "bge-small-en-v1.5-q4_k_m.gguf": "modernbert.gguf",
}
SKIPPED: Final[dict[str, str]] = {}  # name of a test: reason


def hf_hub_download(repo_id: str, filename: str) -> str:
    """Stands for that of huggingface_hub."""
    path = Path(os.environ["SUITE_MODELS"]) / FILES[Path(filename).name]
    assert path.is_file(), f"{repo_id}/{filename}"
    return str(path)


def pytest_configure() -> None:
    import huggingface_hub

    huggingface_hub.hf_hub_download = hf_hub_download  # type: ignore[assignment]


def pytest_sessionstart() -> None:
    import llama_cpp

    loaded, wanted = llama_cpp.llama_cpp._lib._name, os.environ["SUITE_LIBRARY"]
    if loaded != wanted:
        pytest.exit(f"llama_cpp runs on {loaded}, not on {wanted}", returncode=10)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        reason = SKIPPED.get(item.name)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))

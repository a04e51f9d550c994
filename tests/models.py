"""Checkpoints, conversions and loaded models, each made once a session in a temporary folder."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from modernbert_llama.convert import OutType, convert
from modernbert_llama.embedder import Embedder, Pooling
from modernbert_llama.keys import Arch
from modernbert_llama.synthetic import full_tokenizer_json, write_checkpoint
from specs import SPECS
from upstream_builds import stock


@functools.cache
def scratch() -> Path:
    """A folder that goes at the end of the session."""
    folder = Path(tempfile.mkdtemp(prefix="modernbert-llama-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def checkpoint(name: str) -> Path:
    """The folder of a spec."""
    return write_checkpoint(scratch() / name, SPECS[name])


@functools.cache
def gguf(name: str, outtype: OutType = "f32", arch: Arch = "modern-bert") -> Path:
    """A spec converted."""
    file = scratch() / f"{name}-{outtype}-{arch}.gguf"
    return convert(checkpoint(name), file, outtype=outtype, arch=arch, show_progress=False)


@functools.lru_cache(maxsize=2)
def embedder(
    name: str, outtype: OutType = "f32", arch: Arch = "modern-bert", pooling: Pooling | None = None
) -> Embedder:
    """A spec loaded; the last two stay in memory."""
    return Embedder(gguf(name, outtype, arch), pooling=pooling)


def full_tokenizer() -> str:
    """The 50368-token tokenizer.json, or skip where llama.cpp's vocabulary file is not at hand."""
    roots = [Path(__file__).parent.parent / "third_party"]
    if "LLAMA_CPP_SOURCE_DIR" in os.environ:
        roots.append(Path(os.environ["LLAMA_CPP_SOURCE_DIR"]))
    for root in roots:
        for file in sorted(root.glob("**/models/ggml-vocab-gpt-neox.gguf")):
            return full_tokenizer_json(file)
    pytest.skip("no ggml-vocab-gpt-neox.gguf under third_party or $LLAMA_CPP_SOURCE_DIR")


def stock_llama() -> Path:
    """A folder to put on PYTHONPATH, with llama-cpp-python 0.3.36 of its own build (``stock`` says how); built once."""
    return stock("llama-cpp-python-0.3.36")

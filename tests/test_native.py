"""The extension and its stub say the same; a missing extension says what to do."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import modernbert_llama
from modernbert_llama import _core

STUB = Path(modernbert_llama.__file__).with_name("_core.pyi")


def public(names: list[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def test_the_stub_names_what_the_extension_has() -> None:
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    stub = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assert public(list(stub)) == public(dir(_core))
    engine = stub["Engine"]
    assert isinstance(engine, ast.ClassDef)
    methods = {node.name for node in engine.body if isinstance(node, ast.FunctionDef)}
    assert public(list(methods)) == public(dir(_core.Engine))


def test_a_missing_extension_is_explained() -> None:
    program = "import sys; sys.modules['modernbert_llama._core'] = None; from modernbert_llama import Embedder"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "pip install ." in result.stderr


def test_the_run_time_needs_no_torch() -> None:
    program = "import sys, modernbert_llama; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

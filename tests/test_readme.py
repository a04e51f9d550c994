"""The examples of README run as they stand, on small models under the names that they give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from family import ROWS
from family import rebuild as rebuild_row
from sequence_heads import HEADS
from tiny_checkpoint import edit_json

README = Path(__file__).parents[1] / "README.md"


def block(heading: str) -> str:
    """The first Python block below a heading."""
    text = README.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_retrieve_then_rerank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # local folders of the same names, relative to here, come before the hub
    names = ("granite-embedding-english-r2", "granite-embedding-reranker-english-r2")
    for name in names:
        rebuild_row(ROWS.get(name) or HEADS[name], tmp_path / "ibm-granite" / name)
    edit_json(tmp_path / "ibm-granite" / names[0] / "config_sentence_transformers.json", prompts={"query": "query: "})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODERNBERT_LLAMA_CACHE", str(tmp_path / "cache"))
    exec(block("Rerank and classify"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    scores = [float(line.split()[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert len({line.partition(" ")[2] for line in lines}) == 3

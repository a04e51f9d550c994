"""TokenClassifier: the spans of transformers' token-classification pipeline in float64, and what a caller sees."""

from __future__ import annotations

import functools
import json
import lzma
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from family import golden_file, rebuild
from models import gguf, scratch
from modernbert_llama import Embedder, TokenClassifier, convert, load
from modernbert_llama.errors import InputError, TooLongError, TruncationWarning
from modernbert_llama.spans import Span
from taggers import TAGGERS, TEXTS, calls

OutType = Literal["f32", "bf16", "q8_0"]
NAME = pytest.mark.parametrize("name", TAGGERS)
quiet = pytest.mark.filterwarnings("ignore::modernbert_llama.errors.TruncationWarning")


@functools.cache
def folder(name: str) -> Path:
    return rebuild(TAGGERS[name], scratch() / "taggers" / name.replace(" ", "_"))


@functools.cache
def golden(name: str) -> dict[str, Any]:
    with np.load(golden_file(TAGGERS[name])) as file:
        arrays = {key: file[key] for key in file.files}
    return arrays | {"spans": json.loads(lzma.decompress(arrays["spans"].tobytes()))}


@functools.cache
def tagger(name: str, outtype: OutType = "f32") -> TokenClassifier:
    file = scratch() / f"{name.replace(' ', '_')}-{outtype}.gguf"
    return TokenClassifier(convert(folder(name), file, outtype=outtype, show_progress=False))


def check_spans(ours: list[list[Span]], expected: list[list[list[Any]]], texts: Sequence[str] = TEXTS) -> None:
    for text, spans, others in zip(texts, ours, expected, strict=True):
        found = [(span["label"], span["word"], span["start"], span["end"], span.get("index")) for span in spans]
        assert found == [(label, word, start, end, index) for label, _, word, start, end, index in others], text
        for span, other in zip(spans, others, strict=True):
            assert span["score"] == pytest.approx(other[1], rel=1e-5)


@quiet
@NAME
@pytest.mark.parametrize("call", [name for name, _ in calls()])
def test_equals_the_pipeline(name: str, call: str) -> None:
    options = dict(calls())[call]
    check_spans(tagger(name).tag(TEXTS, **options), golden(name)["spans"][call])


@quiet
@NAME
@pytest.mark.parametrize("outtype", ["f32", "bf16", "q8_0"])
def test_scores_of_tokens(name: str, outtype: OutType) -> None:
    """Within 1e-5 relative in f32, within what transformers loses in bfloat16, and 0.05 in q8_0; labels as surely."""
    exact = golden(name)["scores"]
    spans = [s for found in tagger(name, outtype).tag(TEXTS, aggregation="none", ignore_labels=()) for s in found]
    assert len(spans) == len(exact)
    labels = tagger(name).labels
    ours = np.array([span["score"] for span in spans])
    there = exact[np.arange(len(exact)), [labels.index(span["label"]) for span in spans]]
    bar = {"f32": 1e-5 * there, "bf16": golden(name)["bfloat16"], "q8_0": 0.05}[outtype]
    assert (np.abs(ours - there) <= bar).all(), np.abs(ours - there).max()
    # another label than the best only where the two are as near as the scores are sure
    assert (exact.max(axis=1) - there <= 2 * np.asarray(bar)).all()


def test_labels() -> None:
    assert tagger("tagger").labels == ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG")
    assert tagger("tagger with biases").labels == tuple(f"LABEL_{i}" for i in range(5))
    assert tagger("tagger of words").labels[-1] == "Ω"


def test_one_text_and_several() -> None:
    model = tagger("tagger")
    text = "Angela Merkel in New York"
    one = model.tag(text)
    assert model.tag([text, ""]) == [one, []]
    assert model.tag([]) == []
    assert model.tag((text,)) == [one]
    for span in one:
        assert 0 <= span["start"] < span["end"] <= len(text)
        assert "index" not in span
    assert all("index" in span for span in model.tag(text, aggregation="none"))


def test_what_is_longer_than_the_window() -> None:
    model = TokenClassifier(folder("tagger"), cache_dir=scratch() / "cache")
    text = "river " * 100
    with pytest.warns(TruncationWarning, match=r"1 text\(s\) cut to 64 tokens") as warned:
        cut = model.tag(text)
    assert warned[0].filename == __file__
    assert model.n_truncated == 1
    with pytest.raises(TooLongError, match=r"text 1 has 10. tokens, the limit is 64"):
        model.tag(["short", text], truncate=False)
    whole = model.tag(text, stride=10, ignore_labels=())
    assert cut == [] or cut[-1]["end"] <= 64 * len("river ")
    assert whole[-1]["end"] >= len(text) - 1
    assert model.tag(text, stride=10, truncate=False, ignore_labels=()) == whole
    assert model.n_truncated == 1
    assert model.tag("river", max_length=3)[:0] == []


@pytest.mark.parametrize(
    ("texts", "options", "match"),
    [
        (["a", 1], {}, "text 1 is int"),
        (b"a", {}, "texts is bytes"),
        (None, {}, "texts is NoneType"),
        (["a", "\ud800"], {}, "text 1 holds a lone surrogate"),
        ("a", {"aggregation": "best"}, "aggregation is 'best'"),
        ("a", {"aggregation": "none", "stride": 2}, "stride needs an aggregation"),
        ("a", {"stride": -1}, "stride is -1"),
        ("a", {"stride": True}, "stride is True"),
        ("a", {"stride": 62}, "no room"),
        ("a", {"stride": 5, "max_length": 6}, "no room"),
        ("a", {"max_length": 1}, "no room"),
        ("a", {"max_length": 0}, "max_length is 0"),
        ("a", {"ignore_labels": "O"}, "ignore_labels is one string"),
    ],
)
def test_bad_arguments(texts: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        tagger("tagger").tag(texts, **options)


def test_the_class_for_the_file(tmp_path: Path) -> None:
    file = convert(folder("tagger"), tmp_path / "tagger.gguf", show_progress=False)
    assert isinstance(load(file), TokenClassifier)
    with pytest.raises(InputError, match="is a token classifier: use TokenClassifier"):
        Embedder(file)
    with pytest.raises(InputError, match="is a text embedder: use Embedder"):
        TokenClassifier(gguf("tiny"))


def test_tag_on_the_command_line(tmp_path: Path) -> None:
    file = convert(folder("tagger"), tmp_path / "tagger.gguf", show_progress=False)
    texts = ["Angela Merkel in New York", "", "river " * 100]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    command = [sys.executable, "-m", "modernbert_llama.cli", "tag", str(file)]
    options = ["--aggregation", "max", "--stride", "4", "--ignore-label", "O", "--ignore-label", "PER"]
    files = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    subprocess.run([*command, *options, *files], check=True, timeout=300)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    expected = TokenClassifier(file).tag(texts, aggregation="max", stride=4, ignore_labels=("O", "PER"))
    assert lines == [{"text": text, "spans": spans} for text, spans in zip(texts, expected, strict=True)]
    printed = subprocess.run([*command, texts[0]], check=True, timeout=300, capture_output=True, text=True).stdout
    assert json.loads(printed) == {"text": texts[0], "spans": TokenClassifier(file).tag(texts[0])}
    wrong = subprocess.run([*command, "a", "--aggregation", "none", "--stride", "2"], capture_output=True, text=True)
    assert wrong.returncode == 1
    assert "stride needs an aggregation" in wrong.stderr


@quiet
@pytest.mark.live
@pytest.mark.filterwarnings("default")
@NAME
def test_random_texts_here_and_now(name: str) -> None:
    pytest.importorskip("transformers")
    from make_taggers import build, pipeline, run
    from test_spans_live import random_texts

    source = build(TAGGERS[name], scratch() / "taggers-live" / name.replace(" ", "_"))
    exact = pipeline(source)
    model = TokenClassifier(convert(source, scratch() / "taggers-live.gguf", show_progress=False))
    texts = random_texts(7, 200)
    for _, options in calls():
        check_spans(model.tag(texts, **options), run(exact, "float64", options, texts), texts)

"""The spans of random texts with random scores: equal to transformers' token-classification pipeline, every strategy.

The pipeline's own preprocess and postprocess run here, with logits of our choice between them.
"""

from __future__ import annotations

import functools
import zlib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from models import scratch
from modernbert_llama.spans import Aggregation, Span, aggregate, merge_windows
from modernbert_llama.token_windows import TokenWindows
from modernbert_llama.tokenizer import HuggingFaceTokenizer
from numpy.typing import NDArray
from texts import NASTY_TEXTS
from tokenizer_forms import save_form

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("default")]

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "NUM", "X-Y-Z", "B-B-X", "I-", "-")
WORDS = (
    "Angela", "Merkel", "visited", "Paris", "New", "York", "3.5%", "U.S.", "re-enter", "don't", "(", ")", ",", ".",
    "naïve", "東京", "\U0001f600", "\t", "\n", "  ", "   ", "[MASK]", "A", "supercalifragilistic", "e\u0301", "¿qué?",
    "\u00a0x", "",
)  # fmt: skip
FORMS = ("standard", "gpt-4o", "mmbert", "ruri", "wordpiece", "word-level")
N_TEXTS = 120  # of each form, beside the nasty ones


def random_texts(seed: int, n: int) -> list[str]:
    rng = np.random.default_rng(seed)
    texts = [rng.choice(["", " "]).join(rng.choice(WORDS, rng.integers(0, 30))) for _ in range(n // 2)]
    texts += [" ".join(rng.choice(WORDS, rng.integers(0, 60))) for _ in range(n - n // 2)]
    return [*NASTY_TEXTS, *texts]


def hot_logits(rng: np.random.Generator, n_tokens: int) -> NDArray[np.float32]:
    """A few labels often in a row, with near and exact ties between tokens."""
    values = rng.normal(size=(n_tokens, len(LABELS))).round(1)
    for start in range(0, n_tokens, 3):
        values[start : start + rng.integers(1, 6), rng.integers(len(LABELS))] += rng.choice([0.5, 2, 8])
    return values.astype(np.float32)


@functools.cache
def pipeline_of(form: str) -> Any:
    import transformers

    folder = scratch() / "spans" / form
    size = save_form(form, folder, model_max_length=32)
    config = transformers.ModernBertConfig(
        vocab_size=size,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        cls_token_id=0,
        sep_token_id=0,
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    model = transformers.ModernBertForTokenClassification(config)
    return transformers.TokenClassificationPipeline(model=model, tokenizer=tokenizer)


def theirs(pipe: Any, text: str, logits: Any, aggregation: str, stride: int | None) -> list[dict[str, Any]]:
    import torch

    before, _, after = pipe._sanitize_parameters(aggregation_strategy=aggregation, stride=stride)
    outputs = []
    for i, window in enumerate(pipe.preprocess(text, **before)):
        n = int(window["attention_mask"].sum())
        values = np.zeros((1, len(window["input_ids"][0]), len(LABELS)))
        values[0, :n] = logits(i, n)
        outputs.append({**window, "logits": torch.from_numpy(values)})
    found: list[dict[str, Any]] = pipe.postprocess(outputs, **after)
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stride", [None, 0, 5])
def test_equal_to_the_pipeline(form: str, stride: int | None) -> None:
    pipe = pipeline_of(form)
    folder = scratch() / "spans" / form
    windows = TokenWindows(HuggingFaceTokenizer((folder / "tokenizer.json").read_text(encoding="utf-8"), form))
    texts = random_texts(zlib.crc32(form.encode()), N_TEXTS)
    n_spans = n_windows = 0
    for number, (text, found) in enumerate(zip(texts, windows.windows(texts, 32, stride), strict=True)):
        found = found if stride is not None else found[:1]
        n_windows += len(found)

        @functools.cache
        def logits(i: int, n: int, number: int = number) -> NDArray[np.float32]:
            return hot_logits(np.random.default_rng([number, i]), n)

        for aggregation in get_args(Aggregation):
            if stride is not None and aggregation == "none":
                continue
            spans: list[Span] = []
            for i, window in enumerate(found):
                tokens = windows.scored(text, window, logits(i, len(window.ids)), pipe.tokenizer.unk_token_id)
                spans += aggregate(tokens, LABELS, aggregation, ("O",), windows.join)
            spans = merge_windows(spans) if len(found) > 1 else spans
            expected = theirs(pipe, text, logits, aggregation, stride)
            n_spans += len(spans)
            assert len(spans) == len(expected), (text, aggregation)
            for ours, other in zip(spans, expected, strict=True):
                assert ours["label"] == (other["entity"] if aggregation == "none" else other["entity_group"])
                for key in ("word", "start", "end", "index"):
                    assert ours.get(key) == other.get(key)
                assert ours["score"] == pytest.approx(float(other["score"]), rel=1e-12)
    assert n_spans > 10 * N_TEXTS
    assert stride is None or n_windows > 1.2 * len(texts)


def test_the_words_of_every_form_are_covered() -> None:
    folder = Path(scratch() / "spans-marks")
    marks = set()
    for form in FORMS:
        save_form(form, folder / form)
        text = (folder / form / "tokenizer.json").read_text(encoding="utf-8")
        marks.add(TokenWindows(HuggingFaceTokenizer(text, form))._marks_subwords)
    assert marks == {True, False}

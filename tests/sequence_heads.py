"""Cross-encoders and text classifiers, small: the public rerankers' forms, and every form of head. As ``family``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from family import DenseForm, Row


@dataclass(frozen=True, kw_only=True)
class HeadRow(Row):
    """A form of head: ``kind`` says who saved it.

    ``transformers``: a bare ``ModernBertForSequenceClassification``; ``cross-encoder``: the same, saved by
    sentence-transformers; ``modular``: its modules, ``behind`` the pooling, and a Dense for the scores.
    """

    kind: Literal["transformers", "cross-encoder", "modular"] = "cross-encoder"
    labels: tuple[str, ...] = ("LABEL_0",)
    activation: str | None = None  # the class of torch.nn that the cross-encoder is saved with
    stock: bool = True  # whether llama.cpp computes it
    problem_type: str | None = None
    score_bias: bool = True  # of the last Dense


_ETTIN: Final[dict[str, Any]] = {
    "kind": "modular",
    "behind": (DenseForm(128, "GELU", bias=False), "LayerNorm"),
    "thetas": (160000.0, 160000.0),
    "positions": 7999,
    "stock": False,
}
_TONES: Final = ("joy", "anger", "Überraschung", "忧伤", "fear", "love", "neutral")
_PROMPTS: Final = {"web": "Given a web search query, find passages: ", "none": ""}

MODELS: Final = (
    HeadRow("granite-embedding-reranker-english-r2", (22, 128, 192, 2), config={"classifier_pooling": "cls"}),
    HeadRow(
        "gte-reranker-modernbert-base",
        (22, 128, 192, 2),
        kind="transformers",
        pooling=(),
        config={"classifier_pooling": "mean"},
        stored="F16",
        generation=4,
    ),
    HeadRow("ettin-reranker-17m", (7, 128, 192, 2), **_ETTIN),
    HeadRow("ettin-reranker-150m", (22, 128, 192, 2), **_ETTIN),
    HeadRow(
        "japanese-reranker-v2",
        (10, 128, 512, 2),
        "ruri",
        kind="transformers",
        config={"classifier_pooling": "cls"},
        stored="BF16",
    ),
)
_SHAPE: Final = (4, 128, 192, 2)
FORMS: Final = tuple(
    HeadRow(name, _SHAPE, **options)
    for name, options in (
        ("two labels, default names", {"labels": ("LABEL_0", "LABEL_1"), "kind": "transformers"}),
        (
            "three labels, mean",
            {"labels": ("entailment", "neutral", "contradiction"), "config": {"classifier_pooling": "mean"}},
        ),
        (
            "many labels, multi-label",
            {
                "labels": tuple(f"{tone} {i}" for i in range(4) for tone in _TONES),
                "kind": "transformers",
                "problem_type": "multi_label_classification",
            },
        ),
        (
            "regression",
            {"kind": "transformers", "problem_type": "regression", "config": {"classifier_pooling": "mean"}},
        ),
        ("logits of one label", {"activation": "Identity", "max_length": 64}),
        ("softmax of three labels", {"labels": ("a", "b", "c"), "activation": "Softmax"}),
        (
            "biases",
            {"config": {"classifier_bias": True, "norm_bias": True, "classifier_pooling": "mean"}, "stock": False},
        ),
        ("dense bias", {"config": {"classifier_bias": True}, "stock": False}),
        ("silu", {"config": {"classifier_activation": "silu"}, "stock": False}),
        ("tanh GELU", {"config": {"classifier_activation": "gelu_new"}, "stock": False}),
        ("relu", {"config": {"classifier_activation": "relu", "classifier_pooling": "mean"}, "stock": False}),
        ("tanh", {"config": {"classifier_activation": "tanh"}, "labels": ("no", "yes"), "stock": False}),
        ("prompts", {"prompts": _PROMPTS, "default_prompt": "web"}),
        (
            "modular, several labels",
            {
                "kind": "modular",
                "labels": ("LABEL_0", "LABEL_1", "LABEL_2"),
                "pooling": ("mean", "cls"),
                "behind": (DenseForm(64, "Tanh"), "LayerNorm", DenseForm(96, "SiLU", residual=True), "Normalize"),
                "stock": False,
                "score_bias": False,
            },
        ),
        (
            "modular, prompt not pooled",
            {
                "kind": "modular",
                "pooling": ("mean",),
                "behind": (),
                "include_prompt": False,
                "prompts": _PROMPTS,
                "activation": "Identity",
                "stock": False,
                "max_length": 96,
            },
        ),
    )
)
HEADS: Final = {row.name: row for row in (*MODELS, *FORMS)}

_LONG: Final = " ".join(f"Sentence {i} of a document that is longer than one window." for i in range(20))
QUERY: Final = "Where does the river rise?"
DOCUMENTS: Final = (
    "The river rises in the hills.",
    "A dog is sleeping under the table.",
    "",
    "検索する日本語の文章、ひらがなとカタカナ。",
    "nai\u0308ve cafe\u0301  [MASK] [SEP] <mask>\n\tÅngström ﬁ Ελληνικά \U0001f600",
    _LONG,
    "It rises in the hills, not by the sea.",
    "1234 + 5678 = 6912",
    "The hills rise; the river falls.",
    "Where? There.",
    "river " * 30,
    "Rain.",
)
PAIRS: Final = (*((QUERY, text) for text in DOCUMENTS), ("", ""), ("", "alone"), (_LONG, "short"), (_LONG, _LONG))


def encodings(row: HeadRow) -> Mapping[str, Mapping[str, Any]]:
    """What is compared: a name, and the options that ours and sentence-transformers share."""
    return {"plain": {}} | {f"prompt {name}": {"prompt_name": name} for name in row.prompts}

"""Token classifiers, small: ``make_taggers.py`` builds them with transformers and keeps what its pipeline says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from family import Row
from texts import NASTY_TEXTS

_BIO: Final = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG")


def _labels(*names: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


TAGGERS: Final = {
    row.name: row
    for row in (
        Row("tagger", (4, 128, 192, 2), pooling=(), behind=(), max_length=64, config=_labels(*_BIO)),
        Row(
            "tagger with biases",
            (3, 96, 128, 2),
            pooling=(),
            behind=(),
            max_length=32,
            generation=4,
            stored="BF16",
            config={"classifier_bias": True, "norm_bias": True, "classifier_activation": "silu", "num_labels": 5},
        ),
        Row(
            "tagger of words",
            (3, 96, 128, 2),
            "wordpiece",
            pooling=(),
            behind=(),
            max_length=40,
            config={"classifier_activation": "relu"} | _labels("O", "B-X", "I-X", "X-Y-Z", "NUM", "Ω"),
        ),
    )
}
TEXTS: Final = (
    *NASTY_TEXTS,
    "Angela Merkel visited New York (U.S.) in 2015, with 3.5% of naïve re-entering Münchners.",
    " ".join(f"Sentence {i} of Dr. Nobody's text, that is longer than the window." for i in range(12)),
)


def calls() -> Iterator[tuple[str, dict[str, Any]]]:
    """What is compared: a name, and the arguments of ``tag``."""
    for aggregation in ("none", "simple", "first", "average", "max"):
        yield aggregation, {"aggregation": aggregation}
        if aggregation != "none":
            yield f"{aggregation}, stride", {"aggregation": aggregation, "stride": 8}
    yield "all tokens", {"aggregation": "none", "ignore_labels": ()}

"""The forms of late-interaction models, small, as PyLate, ColBERT's own code and sentence-transformers save them.

As ``family``: ``make_late.py`` builds the folders and the golden vectors, ``rebuild`` writes the folders anew.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from family import Row

Maker = Literal["pylate", "stanford", "sentence-transformers"]


@dataclass(frozen=True)
class LateRow:
    """A folder: the encoder, the Dense modules as (width, use_residual, bias), and what its maker saves beside them."""

    encoder: Row
    maker: Maker
    dense: tuple[tuple[int, bool, bool], ...] = ((32, False, False),)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.encoder.name


def _row(name: str, shape: tuple[int, int, int, int], maker: Maker, **options: Any) -> LateRow:
    taken = {key: options.pop(key) for key in ("dense", "options") if key in options}
    # PyLate declares the markers anew, but for an empty one: the tokenizer's files are kept by this name
    tokenizer = "markers" if maker != "pylate" else f"markers-pylate{'-query' * ('no expansion' in name)}"
    return LateRow(Row(name, shape, tokenizer, pooling=(), behind=(), **options), maker, **taken)


_SMALL: Final = (3, 96, 128, 2)
_PUNCTUATION: Final = list(string.punctuation)

LATE_ROWS: Final = {
    row.name: row
    for row in (
        _row("GTE-ModernColBERT", (22, 128, 192, 2), "pylate", options={"query_length": 32, "document_length": 120}),
        _row(
            "LateOn",
            (22, 128, 192, 2),
            "pylate",
            stored="BF16",
            options={"query_length": 32, "document_length": 120, "prompts": {"query": "search: ", "document": ""}},
        ),
        _row(
            "mxbai-edge-colbert",
            (7, 128, 192, 2),
            "pylate",
            thetas=(160000.0, 160000.0),
            positions=7999,
            dense=((256, True, False), (48, False, False)),
            options={"query_length": 48, "document_length": 100, "attend_to_expansion_tokens": False},
        ),
        _row(
            "PyLate, attends to its expansion",
            _SMALL,
            "pylate",
            dense=((24, False, True),),
            options={
                "query_length": 24,
                "document_length": 40,
                "attend_to_expansion_tokens": True,
                "skiplist_words": [],
            },
        ),
        _row(
            "PyLate, no expansion",
            _SMALL,
            "pylate",
            options={
                "query_length": 12,
                "document_length": 64,
                "do_query_expansion": False,
                "skiplist_words": ["river", ".", ","],
                "document_prefix": "",
            },
        ),
        _row(
            "PyLate, expansion beyond the window",
            _SMALL,
            "pylate",
            config={"local_attention": 16},
            options={"query_length": 64, "document_length": 64},
        ),
        _row(
            "Stanford",
            _SMALL,
            "stanford",
            options={"query_maxlen": 32, "doc_maxlen": 80, "query_token_id": "[unused0]", "doc_token_id": "[unused1]"},
        ),
        _row(
            "MultiVectorEncoder",
            (4, 96, 128, 2),
            "sentence-transformers",
            options={
                "prompts": {"query": "[Q] ", "document": "[D] "},
                "document_length": 100,
                "query_expansion": {"strategy": "fixed", "attend": False, "length": 32},
                "skiplist_words": _PUNCTUATION,
            },
        ),
        _row(
            "MultiVectorEncoder, at least",
            _SMALL,
            "sentence-transformers",
            options={
                "query_length": 40,
                "query_expansion": {"strategy": "min", "attend": True, "length": 16, "token": "[PAD]"},
                "skiplist_words": [".", "?"],
                "skiplist_tasks": ["query", "document"],
            },
        ),
        _row(
            "MultiVectorEncoder, not normalised",
            _SMALL,
            "sentence-transformers",
            options={"prompts": {"query": "query: ", "document": ""}, "query_length": 16, "normalize": False},
        ),
    )
}

QUERIES: Final = (
    "what rises in the hills?",
    "",
    "river",
    (  # cut
        "A query of more words than the shorter of the limits leaves room for, with a comma, and so it is cut where "
        "the reference cuts it; then it goes on and on and on until even the longest of the limits is passed for "
        "certain."
    ),
    "nai\u0308ve cafe\u0301  [MASK] 東京 \U0001f600",
)
DOCUMENTS: Final = (
    "The river rises in the hills.",
    "",
    "!!! ... ???",
    "Sun, moon; (river) 'stone' - \"hill\" [D] [Q] e-mail: a@b.c",
    " ".join(f"Sentence {i}, of a text that is longer than the window." for i in range(24)),
    "検索する日本語の文章、ひらがなとカタカナ。",
    "  white space around  ",
)

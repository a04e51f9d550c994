"""Every embedding row of the family's public models, rebuilt small: the same form (config, tokenizer kind, modules),
made and saved by transformers and sentence-transformers, with weights from a seed.

What is kept of a public model is its form, not its weights: layers, head size, thetas, positions, activation, tokenizer
kind, modules, prompts, and how its files are spelled. Widths are cut down. ``make_family.build`` needs the compare
extra; ``rebuild`` does not: it writes the files that ``build`` saved (kept in ``golden/family``) and the same weights.
"""

from __future__ import annotations

import json
import lzma
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from specs import GOLDEN
from tiny_checkpoint import to_bf16, write_safetensors

FAMILY: Final = GOLDEN / "family"


@dataclass(frozen=True)
class DenseForm:
    """A Dense module: its width, the class of torch.nn, and whether it has a bias or a residual."""

    width: int
    activation: str = "Tanh"
    bias: bool = True
    residual: bool = False


Module = DenseForm | Literal["LayerNorm", "Normalize"]


@dataclass(frozen=True)
class Row:
    """One public model, small.

    ``shape`` is (layers, hidden, intermediate, heads). ``pooling`` empty: a bare transformers checkpoint, which
    sentence-transformers pools by the mean. ``generation`` 4 spells config.json, tokenizer and modules as transformers
    4 and sentence-transformers 2 to 5 did.
    """

    name: str
    shape: tuple[int, int, int, int]
    tokenizer: str = "standard"
    pooling: tuple[str, ...] = ("cls",)
    behind: tuple[Module, ...] = ("Normalize",)
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    include_prompt: bool = True
    similarity: str = "cosine"
    matryoshka: tuple[int, ...] = ()
    thetas: tuple[float, float] = (160000.0, 10000.0)
    positions: int = 8192
    max_length: int | None = None
    generation: Literal[4, 5] = 5
    masked_lm: bool = False
    stored: Literal["F32", "F16", "BF16"] = "F32"
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bare(self) -> bool:
        return not self.pooling


_YARN: Final = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}
_JA: Final = {"layer_norm_eps": 1e-12, "classifier_pooling": "cls"}
_BARE: Final[dict[str, Any]] = {"pooling": (), "behind": (), "masked_lm": True, "generation": 4}
_ETTIN: Final[dict[str, Any]] = {**_BARE, "thetas": (160000.0, 160000.0), "positions": 7999}
_RURI: Final = {"": "", "query": "検索クエリ: ", "document": "検索文書: ", "topic": "トピック: "}


def _ja(name: str, shape: tuple[int, int, int, int], **options: Any) -> Row:
    return Row(name, shape, "ruri", stored="BF16", config=_JA, generation=4, **options)


MODELS: Final = (
    Row("ModernBERT-base", (22, 128, 192, 2), config={"layer_norm_eps": 1e-3, "classifier_pooling": "mean"}, **_BARE),
    Row("ModernBERT-large", (28, 128, 320, 2), config={"classifier_pooling": "mean"}, **_BARE),
    Row(
        "granite-embedding-english-r2",
        (22, 128, 192, 2),
        thetas=(80000.0, 10000.0),
        generation=4,
        stored="BF16",
        config={"classifier_pooling": "mean"},
    ),
    Row(
        "granite-embedding-small-english-r2",
        (12, 96, 384, 3),
        thetas=(80000.0, 10000.0),
        generation=4,
        stored="BF16",
        config={"classifier_pooling": "mean"},
    ),
    Row(
        "granite-embedding-97m-multilingual-r2",
        (12, 96, 384, 3),
        "gpt-4o",
        thetas=(150000.0, 160000.0),
        positions=32768,
        stored="BF16",
        config={"hidden_activation": "silu"},
    ),
    Row(
        "granite-embedding-311m-multilingual-r2",
        (22, 128, 192, 2),
        "granite-311m",
        thetas=(150000.0, 160000.0),
        positions=32768,
        stored="BF16",
        matryoshka=(96, 64, 32),
    ),
    Row(
        "nomic modernbert-embed-base",
        (22, 128, 192, 2),
        pooling=("mean",),
        prompts={"query": "search_query: ", "document": "search_document: "},
        generation=4,
        matryoshka=(64,),
    ),
    Row("gte-modernbert-base", (22, 128, 192, 2), behind=(), generation=4, stored="F16"),
    Row("mmBERT-small", (22, 128, 384, 2), "mmbert", thetas=(160000.0, 160000.0), **_BARE),
    Row("mmBERT-base", (22, 128, 192, 2), "mmbert", thetas=(160000.0, 160000.0), **_BARE),
    Row(
        "mmBERT-32K",
        (22, 128, 192, 2),
        "mmbert",
        thetas=(160000.0, 160000.0),
        positions=32768,
        config={"rope_scaling": _YARN},
        **_BARE,
    ),
    Row("ettin-encoder-17m", (7, 128, 192, 2), **_ETTIN),
    Row("ettin-encoder-32m", (10, 128, 192, 2), **_ETTIN),
    Row("ettin-encoder-68m", (19, 128, 192, 2), **_ETTIN),
    Row("ettin-encoder-150m", (22, 128, 192, 2), **_ETTIN),
    Row("ettin-encoder-400m", (28, 128, 320, 2), **_ETTIN),
    Row("ettin-encoder-1b", (28, 192, 416, 3), **_ETTIN),
    _ja("ruri-v3-30m", (10, 128, 512, 2), pooling=("mean",), behind=(), prompts=_RURI),
    _ja("ruri-v3-70m", (13, 128, 512, 2), pooling=("mean",), behind=(), prompts=_RURI),
    _ja("ruri-v3-130m", (19, 128, 512, 2), pooling=("mean",), behind=(), prompts=_RURI),
    _ja("ruri-v3-310m", (25, 128, 512, 2), pooling=("mean",), behind=(), prompts=_RURI),
    _ja("modernbert-ja-30m", (10, 128, 512, 2), pooling=(), behind=(), masked_lm=True),
    _ja("modernbert-ja-70m", (13, 128, 512, 2), pooling=(), behind=(), masked_lm=True),
    _ja("modernbert-ja-130m", (19, 128, 512, 2), pooling=(), behind=(), masked_lm=True),
    _ja("modernbert-ja-310m", (25, 128, 512, 2), pooling=(), behind=(), masked_lm=True),
)

_QUERY: Final = {"query": "Represent this question for retrieval: ", "document": "passage: "}

# what a fine-tuned model of the family may have behind the encoder
PIPELINES: Final = tuple(
    Row(name, (4, 128, 192, 2), **options)
    for name, options in (
        ("max", {"pooling": ("max",), "behind": ()}),
        ("mean_sqrt_len", {"pooling": ("mean_sqrt_len_tokens",), "behind": (), "similarity": "dot"}),
        ("weightedmean", {"pooling": ("weightedmean",), "behind": (), "similarity": "euclidean"}),
        ("lasttoken", {"pooling": ("lasttoken",), "similarity": "manhattan", "max_length": 48}),
        (
            "all poolings",
            {"pooling": ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"), "generation": 4},
        ),
        ("two poolings, newer", {"pooling": ("mean", "cls"), "prompts": _QUERY, "default_prompt": "document"}),
        (
            "prompt not pooled",
            {
                "pooling": ("mean",),
                "include_prompt": False,
                "prompts": _QUERY,
                "default_prompt": "query",
                "max_length": 64,
            },
        ),
        (
            "prompt not pooled, all poolings",
            {
                "pooling": ("weightedmean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens"),
                "include_prompt": False,
                "prompts": _QUERY,
                "generation": 4,
            },
        ),
        ("Dense", {"behind": (DenseForm(64), "Normalize"), "generation": 4, "matryoshka": (32, 16)}),
        ("Dense without bias", {"behind": (DenseForm(256, "Identity", bias=False), "Normalize")}),
        (
            "Dense, Normalize in between",
            {
                "pooling": ("mean", "max"),
                "behind": ("Normalize", DenseForm(96, "GELU"), "LayerNorm", DenseForm(96, "Mish")),
            },
        ),
        (
            "Dense with residuals",
            {"behind": (DenseForm(128, "SiLU", residual=True), DenseForm(48, "PReLU", residual=True), "Normalize")},
        ),
    )
)
ROWS: Final = {row.name: row for row in (*MODELS, *PIPELINES)}

_LONG: Final = " ".join(
    f"Sentence {i} of a text that is longer than the window of the local layers." for i in range(24)
)
TEXTS: Final = (
    "",
    "The river rises in the hills.",
    "検索する日本語の文章、ひらがなとカタカナ。한국어 문장 中文",
    "nai\u0308ve cafe\u0301  [MASK] <mask>\n\tÅngström ﬁ Ελληνικά עברית ไทย \U0001f600",
    _LONG,
)


def encodings(row: Row) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is compared for a row: a name, and the options that ours and sentence-transformers share."""
    yield "plain", {}
    for name in row.prompts:
        yield f"prompt {name}", {"prompt_name": name}


# --- weights ----------------------------------------------------------------------------------------------------------


def hot_values(row: Row, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """As those of ``synthetic``: large enough that a wrong detail shows, and the same on every machine.

    Already rounded to the type in which the row is stored.
    """
    stream = np.random.RandomState([zlib.crc32(row.name.encode()), zlib.crc32(name.encode())])
    words = np.frombuffer(stream.bytes(8 * math.prod(shape)), "<u2").reshape(-1, 4)
    centred = (words.sum(axis=1, dtype=np.int32) - np.int32(2 * 65535)).astype(np.float32).reshape(shape)
    unit = centred * np.float32(3**0.5 / 65536)
    if name.endswith("activation_function.weight"):
        values = unit * np.float32(0.1) + np.float32(0.25)
    elif name.endswith("bias"):
        values = unit * np.float32(0.3)
    elif len(shape) == 1:
        values = unit * np.float32(0.25) + np.float32(1)
    elif "tok_embeddings" in name or "decoder" in name:
        values = unit
    else:
        gain = 0.25 if name.endswith("Wo.weight") else 1.0
        values = unit * np.float32(gain * shape[1] ** -0.5)
    if row.stored == "BF16":
        return np.asarray((to_bf16(values).astype(np.uint32) << 16).view(np.float32))
    return values.astype(np.float16).astype(np.float32) if row.stored == "F16" else np.asarray(values)


# --- without transformers ---------------------------------------------------------------------------------------------


def golden_file(row: Row) -> Path:
    return FAMILY / f"{row.name.replace(' ', '_').replace(',', '')}.npz"


def golden(row: Row) -> dict[str, NDArray[Any]]:
    """The vectors of a row: for each encoding "NAME" float64 (texts, width), "NAME-float32" the relative L2 error of
    sentence-transformers in float32 and "NAME-bfloat16" 1 - cosine of its bfloat16, each (texts,); and "saved", its
    files.
    """
    with np.load(golden_file(row)) as file:
        return {key: file[key] for key in file.files}


def pack_files(files: Mapping[str, Any]) -> NDArray[np.uint8]:
    return np.frombuffer(lzma.compress(json.dumps(files).encode(), preset=9), np.uint8)


def rebuild(row: Row, folder: Path) -> Path:
    """Write the folder that ``build`` saved: its files as they are, its weights from the seed."""
    files = json.loads(lzma.decompress(golden(row)["saved"].tobytes()))
    if "tokenizer" in files:
        with np.load(FAMILY / f"tokenizer-{row.tokenizer}-{row.generation}.npz") as shared:
            files["text"] |= json.loads(lzma.decompress(shared["saved"].tobytes()))
    for name, text in files["text"].items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for name, shapes in files["weights"].items():
        tensors = {tensor: hot_values(row, tensor, tuple(shape)) for tensor, shape in shapes.items()}
        write_safetensors(folder / name, tensors, row.stored if "/" not in name else "F32")
    return folder

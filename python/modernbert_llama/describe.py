"""What a GGUF file holds, as data and as a readable table: ``modernbert-llama inspect``."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from gguf import LlamaFileType

from modernbert_llama import keys
from modernbert_llama.gguf_header import GGUFHeader, TensorInfo, Value, read_header

__all__ = ["Description", "describe", "render"]

_LONG = 100  # characters of one value in the table


@dataclass(frozen=True)
class Description:
    """A GGUF file in words: ``facts`` are (section, name, value) rows; ``metadata`` and ``tensors`` the header."""

    path: Path
    arch: str
    facts: tuple[tuple[str, str, str], ...]
    metadata: dict[str, Value]
    tensors: tuple[TensorInfo, ...]


def describe(path: str | os.PathLike[str]) -> Description:
    """Reads the header of a GGUF file of any architecture; the weights are not read.

    Raises ``ModelNotFoundError`` for an unreadable file and ``ModelFileError`` for a damaged or foreign one.
    """
    header = read_header(Path(path).expanduser())
    arch = str(header.metadata.get("general.architecture", "unknown"))
    facts = (
        *_file(header, arch),
        *_encoder(header.metadata, arch),
        *_pipeline(header.metadata, arch),
        *_tokenizer(header.metadata),
    )
    return Description(header.path, arch, facts, header.metadata, header.tensors)


def render(description: Description, *, tensors: bool = False) -> str:
    """The facts as a table, a section a block; with ``tensors`` one more line for each tensor."""
    width = max((len(name) for _, name, _ in description.facts), default=0)
    lines: list[str] = []
    section = ""
    for group, name, value in description.facts:
        if group != section:
            lines += ["", group] if lines else [group]
            section = group
        lines.append(f"  {name:<{width}}  {value}")
    if tensors:
        lines += ["", "tensors"]
        longest = max((len(info.name) for info in description.tensors), default=0)
        lines += [f"  {info.name:<{longest}}  {info.type:<5} {_shape(info)}" for info in description.tensors]
    return "\n".join(lines)


def _file(header: GGUFHeader, arch: str) -> list[tuple[str, str, str]]:
    n_weights = sum(_elements(info) for info in header.tensors)
    types = Counter(info.type for info in header.tensors)
    rows = [
        ("path", str(header.path)),
        ("name", _text(header.metadata.get("general.name"))),
        ("architecture", arch if arch in keys.ARCHS else f"{arch} (not a ModernBERT)"),
        ("file type", _file_type(header.metadata.get("general.file_type"))),
        ("size", f"{header.size / 1e6:.1f} MB, GGUF version {header.version}"),
        ("parameters", f"{n_weights / 1e6:.2f} M in {len(header.tensors)} tensors"),
        ("tensor types", ", ".join(f"{count} {name}" for name, count in types.most_common())),
        ("source sha256", _text(header.metadata.get(keys.SOURCE_SHA256))),
    ]
    return [("file", name, value) for name, value in rows if value]


def _encoder(metadata: dict[str, Value], arch: str) -> list[tuple[str, str, str]]:
    def value(*names: str) -> str:
        return next((_text(metadata[f"{arch}.{name}"]) for name in names if f"{arch}.{name}" in metadata), "")

    rows = [
        ("layers", value("block_count")),
        ("hidden size", value("embedding_length")),
        ("feed-forward size", value("feed_forward_length")),
        ("attention heads", value("attention.head_count")),
        ("positions", value("context_length")),
        ("vocabulary", value("vocab_size")),
        ("activation", value("hidden_activation")),
        ("norm epsilon", value("attention.layer_norm_epsilon")),
        ("RoPE theta, global", value("rope.freq_base", "rope.freq_base_global")),
        ("RoPE theta, local", value("rope.freq_base_swa", "rope.freq_base_local")),
        ("local window", value("attention.sliding_window", "attention.local_attn_window")),
        ("global layers", _global_layers(metadata, arch)),
    ]
    return [("encoder", name, text) for name, text in rows if text]


def _pipeline(metadata: dict[str, Value], arch: str) -> list[tuple[str, str, str]]:
    pooling = {number: name for name, number in keys.POOLING_TYPES.items()}
    number = metadata.get(f"{arch}.pooling_type")
    rows = [
        ("pooling", pooling.get(number, str(number)) if isinstance(number, int) else ""),
        ("normalize", _text(metadata.get(keys.ST_NORMALIZE, metadata.get(f"{arch}.normalize_embeddings")))),
        ("maximum length", _text(metadata.get(keys.ST_MAX_SEQ_LENGTH))),
        ("Matryoshka dims", _text(metadata.get(keys.ST_MATRYOSHKA_DIMS))),
        ("truncate dim", _text(metadata.get(keys.ST_TRUNCATE_DIM))),
        ("similarity", _text(metadata.get(keys.ST_SIMILARITY))),
        ("default prompt", _text(metadata.get(keys.ST_DEFAULT_PROMPT_NAME))),
        *_prompts(metadata.get(keys.ST_PROMPTS)),
    ]
    return [("pipeline", name, text) for name, text in rows if text]


def _prompts(value: Value | None) -> list[tuple[str, str]]:
    if not isinstance(value, str):
        return []
    try:
        prompts = json.loads(value)
    except (ValueError, RecursionError):
        return [("prompts", f"not JSON: {_text(value)}")]
    if not isinstance(prompts, dict):
        return [("prompts", f"not an object: {_text(value)}")]
    return [
        (f"prompt {_shorten(name)}", _shorten(json.dumps(text, ensure_ascii=False))) for name, text in prompts.items()
    ]


def _tokenizer(metadata: dict[str, Value]) -> list[tuple[str, str, str]]:
    tokens = metadata.get("tokenizer.ggml.tokens")
    names = tokens if isinstance(tokens, tuple) else ()

    def token(key: str) -> str:
        number = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if not isinstance(number, int):
            return ""
        return f"{_text(names[number])} ({number})" if number < len(names) else f"{number}, outside the vocabulary"

    embedded = metadata.get(keys.TOKENIZER_JSON)
    rows = [
        ("model", _text(metadata.get("tokenizer.ggml.model"))),
        ("pre-tokenizer", _text(metadata.get("tokenizer.ggml.pre"))),
        ("tokens", str(len(names)) if names else ""),
        ("before a text", token("bos")),
        ("after a text", token("eos")),
        ("mask", token("mask")),
        ("Hugging Face's own", f"embedded, {len(embedded) / 1e3:.0f} kB" if isinstance(embedded, str) else "absent"),
    ]
    return [("tokenizer", name, text) for name, text in rows if text]


def _global_layers(metadata: dict[str, Value], arch: str) -> str:
    period = metadata.get(f"{arch}.attention.global_attn_every_n_layers")
    pattern = metadata.get(f"{arch}.attention.sliding_window_pattern", period)
    if isinstance(pattern, tuple):
        return ", ".join(str(layer) for layer, local in enumerate(pattern) if not local) or "none"
    return f"every {pattern} from 0" if isinstance(pattern, int) else ""


def _file_type(value: Value | None) -> str:
    try:
        return (
            LlamaFileType(value).name.lower().removeprefix("mostly_").removeprefix("all_") if value is not None else ""
        )
    except ValueError:
        return f"unknown ({value})"


def _elements(info: TensorInfo) -> int:
    n = 1
    for size in info.shape:
        n *= size
    return n


def _shape(info: TensorInfo) -> str:
    return " x ".join(str(size) for size in info.shape)


def _text(value: Value | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return _shorten(", ".join(_text(item) for item in value))
    return _shorten(f"{value:g}" if isinstance(value, float) else str(value))


def _shorten(text: str) -> str:
    # a terminal must not be steered by what a file holds
    plain = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return plain if len(plain) <= _LONG else plain[: _LONG - 3] + "..."

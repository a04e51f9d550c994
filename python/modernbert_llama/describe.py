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
from modernbert_llama.jsonfile import Fields
from modernbert_llama.quant_types import type_name
from modernbert_llama.roles import decode_roles
from modernbert_llama.tokenizer_form import read_form

__all__ = ["Description", "describe", "file_type_name", "render"]

_LONG = 100  # characters of one value in the table


_TASK_WORDS = {
    "sequence-classification": "reranker or text classifier: a score for each label, of a text or a pair",
    "token-classification": "token classifier: a label for each token",
    "fill-mask": "masked language model; embeds too",
    "sparse-embedding": "sparse embedding: a weight for each word of the vocabulary",
    "multi-vector": "multi-vector embedding: one vector a token",
}


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
        lines += [f"  {info.name:<{longest}}  {type_name(info.type):<6} {_shape(info)}" for info in description.tensors]
    return "\n".join(lines)


def _file(header: GGUFHeader, arch: str) -> list[tuple[str, str, str]]:
    n_weights = sum(_elements(info) for info in header.tensors)
    types = Counter(type_name(info.type) for info in header.tensors)
    rows = [
        ("path", str(header.path)),
        ("name", _text(header.metadata.get("general.name"))),
        ("architecture", arch if arch in keys.ARCHS else f"{arch} (not a ModernBERT)"),
        ("file type", file_type_name(header.metadata.get("general.file_type"))),
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
        ("RoPE scaling, global", _rope_scaling(metadata, f"{arch}.rope.scaling.", "")),
        ("RoPE scaling, local", _rope_scaling(metadata, f"{arch}.rope.scaling.", "_swa")),
        ("local window", value("attention.sliding_window", "attention.local_attn_window")),
        ("global layers", _global_layers(metadata, arch)),
    ]
    return [("encoder", name, text) for name, text in rows if text]


def _rope_scaling(metadata: dict[str, Value], prefix: str, suffix: str) -> str:
    kind = metadata.get(f"{prefix}type{suffix}", "none")
    if kind == "none":
        return ""
    names = ("factor", "original_context_length", "attn_factor", "yarn_beta_fast", "yarn_beta_slow")
    found = [(name, metadata[f"{prefix}{name}{suffix}"]) for name in names if f"{prefix}{name}{suffix}" in metadata]
    return f"{_text(kind)}: " + ", ".join(f"{name} {_text(value)}" for name, value in found)


def _pipeline(metadata: dict[str, Value], arch: str) -> list[tuple[str, str, str]]:
    names = {number: name for name, number in keys.POOLING_TYPES.items()}
    number = metadata.get(f"{arch}.pooling_type")
    if number == keys.POOLING_RANK:
        number = metadata.get(keys.CLASSIFIER_POOLING.format(arch=arch))
    pooling = names.get(number, str(number)) if isinstance(number, int) else ""
    pooling = _text(metadata.get(keys.ST_POOLING)) or pooling
    normalize = metadata.get(keys.ST_NORMALIZE, metadata.get(f"{arch}.normalize_embeddings"))
    modules = [f"{pooling} pooling"] if pooling else []
    modules += _steps(metadata.get(keys.ST_STEPS)) + ["Normalize"] * bool(normalize)
    rows = [
        ("kind", _model_kind(_text(metadata.get(keys.TASK)), pooling)),
        ("modules", " -> ".join(modules)),
        ("pooling", pooling),
        ("labels", _text(metadata.get(keys.CLASSIFIER_LABELS.format(arch=arch)))),
        ("SPLADE pooling", _text(metadata.get(keys.ST_SPLADE_POOLING))),
        ("SPLADE activation", _text(metadata.get(keys.ST_SPLADE_ACTIVATION))),
        ("maximum active dims", _text(metadata.get(keys.ST_MAX_ACTIVE_DIMS))),
        ("prompt pooled", "no" if metadata.get(keys.ST_INCLUDE_PROMPT) is False else ""),
        ("normalize", _text(normalize)),
        ("maximum length", _text(metadata.get(keys.ST_MAX_SEQ_LENGTH))),
        ("Matryoshka dims", _text(metadata.get(keys.ST_MATRYOSHKA_DIMS))),
        ("truncate dim", _text(metadata.get(keys.ST_TRUNCATE_DIM))),
        ("similarity", _text(metadata.get(keys.ST_SIMILARITY))),
        *_roles(metadata.get(keys.MULTI_VECTOR)),
        ("default prompt", _text(metadata.get(keys.ST_DEFAULT_PROMPT_NAME))),
        *_prompts(metadata.get(keys.ST_PROMPTS)),
    ]
    return [("pipeline", name, text) for name, text in rows if text]


def _model_kind(task: str, pooling: str) -> str:
    if task in _TASK_WORDS:
        return _TASK_WORDS[task]
    if pooling in ("", "none"):
        return "encoder without a pooling of its own"
    return "text embedding: one vector a text"


def _steps(value: Value | None) -> list[str]:
    if not isinstance(value, str):
        return []
    try:
        steps = json.loads(value)
    except (ValueError, RecursionError):
        steps = None
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        return [f"not a list of modules: {_text(value)}"]
    shown = []
    for step in steps:
        kind = _shorten(str(step.get("type")))
        if kind == "Dense":
            kind += f"({step.get('in_features')} to {step.get('out_features')}, {step.get('activation')})"
        shown.append(_shorten(kind))
    return shown


def _roles(value: Value | None) -> list[tuple[str, str]]:
    if not isinstance(value, str):
        return []
    try:
        roles = decode_roles(value)
    except (ValueError, RecursionError):
        return [("roles", f"not to be read: {_text(value)}")]
    rows = []
    for name, role in roles.items():
        shown = [f"at most {role.length} tokens"] if role.length is not None else []
        if role.marker is not None:
            shown.append(f"marker {role.marker}")
        if role.expansion is not None:
            seen = "seen" if role.expansion.attend else "not seen"
            shown.append(f"filled up to {role.expansion.length} with {role.expansion.token}, {seen} by the text")
        if role.skip:
            shown.append(f"{len(role.skip)} tokens left out")
        rows.append((name, ", ".join(shown)))
    return rows


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
        if not names:
            return str(number)
        return f"{_text(names[number])} ({number})" if number < len(names) else f"{number}, outside the vocabulary"

    embedded = metadata.get(keys.TOKENIZER_JSON)
    rows = [
        ("kind", _kind(embedded)),
        ("llama.cpp's model", _text(metadata.get("tokenizer.ggml.model"))),
        ("llama.cpp's split", _text(metadata.get("tokenizer.ggml.pre"))),
        ("tokens", str(len(names)) if names else ""),
        ("before a text", token("bos")),
        ("after a text", token("eos")),
        ("mask", token("mask")),
        ("Hugging Face's own", f"embedded, {len(embedded) / 1e3:.0f} kB" if isinstance(embedded, str) else "absent"),
    ]
    return [("tokenizer", name, text) for name, text in rows if text]


def _kind(tokenizer_json: Value | None) -> str:
    """The form of the embedded tokenizer, in words."""
    if not isinstance(tokenizer_json, str):
        return ""
    try:
        form = read_form(Fields.of(Path(keys.TOKENIZER_JSON), json.loads(tokenizer_json)))
        return _shorten(form.describe())
    except (ValueError, RecursionError):  # not JSON, or CheckpointError
        return "not a tokenizer.json"


def _global_layers(metadata: dict[str, Value], arch: str) -> str:
    period = metadata.get(f"{arch}.attention.global_attn_every_n_layers")
    pattern = metadata.get(f"{arch}.attention.sliding_window_pattern", period)
    if isinstance(pattern, tuple):
        return ", ".join(str(layer) for layer, local in enumerate(pattern) if not local) or "none"
    return f"every {pattern} from 0" if isinstance(pattern, int) else ""


def file_type_name(value: object) -> str:
    """``general.file_type`` by its name (``q4_K_M``); empty for None."""
    if value is None:
        return ""
    try:
        name = LlamaFileType(value).name
    except ValueError:
        return f"unknown ({value})"
    return type_name(name.removeprefix("MOSTLY_").removeprefix("ALL_"))


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

"""A ModernBERT checkpoint of a few kilobytes, written without the package's own code, for tests of the converter."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

VOCAB, HIDDEN, FFN, LAYERS, HEADS = 300, 64, 96, 4, 4
UNK, CLS, SEP, PAD, MASK = "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"
_CODES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}

CONFIG_4: dict[str, Any] = {
    "architectures": ["ModernBertModel"],
    "attention_bias": False,
    "classifier_pooling": "mean",
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 80000.0,
    "hidden_activation": "gelu",
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "layer_norm_eps": 1e-12,
    "local_attention": 128,
    "local_rope_theta": 20000.0,
    "max_position_embeddings": 512,
    "mlp_bias": False,
    "model_type": "modernbert",
    "norm_bias": False,
    "norm_eps": 1e-06,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "reference_compile": None,
    "position_embedding_type": "absolute",
    "torch_dtype": "float32",
    "vocab_size": VOCAB,
}
CONFIG_5: dict[str, Any] = {
    key: value
    for key, value in CONFIG_4.items()
    if key
    not in ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta", "layer_norm_eps", "torch_dtype")
} | {
    "dtype": "float32",
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    "rope_parameters": {
        "full_attention": {"rope_theta": 80000.0, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 20000.0, "rope_type": "default"},
    },
}


def make_tokenizer() -> Tokenizer:
    """Byte-level BPE of 272 ids: [UNK] to [MASK], the bytes, three merges, and runs of two to nine spaces."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [UNK, CLS, SEP, PAD, MASK, *alphabet, "he", "ll", "hell"]
    model = models.BPE(
        vocab={token: number for number, token in enumerate(tokens)}, merges=[("h", "e"), ("l", "l"), ("he", "ll")]
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (UNK, CLS, SEP, PAD)])
    tokenizer.add_special_tokens([AddedToken(MASK, special=True, normalized=False, lstrip=True)])
    tokenizer.add_tokens([AddedToken(" " * n, normalized=False) for n in range(2, 10)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}", pair=f"{CLS} $A {SEP} $B {SEP}", special_tokens=[(CLS, 1), (SEP, 2)]
    )
    return tokenizer


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Hugging Face's tensor names and shapes."""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    attention, mlp, norm = config["attention_bias"], config["mlp_bias"], config["norm_bias"]
    found: dict[str, tuple[int, ...]] = {"embeddings.tok_embeddings.weight": (config["vocab_size"], hidden)}
    norms = ["embeddings.norm", "final_norm"]
    for layer in range(config["num_hidden_layers"]):
        at = f"layers.{layer}."
        norms += [at + "mlp_norm"] + [at + "attn_norm"] * (layer > 0)
        for name, shape, has_bias in (
            ("attn.Wqkv", (3 * hidden, hidden), attention),
            ("attn.Wo", (hidden, hidden), attention),
            ("mlp.Wi", (2 * ffn, hidden), mlp),
            ("mlp.Wo", (hidden, ffn), mlp),
        ):
            found[f"{at}{name}.weight"] = shape
            if has_bias:
                found[f"{at}{name}.bias"] = shape[:1]
    for name in norms:
        found[f"{name}.weight"] = (hidden,)
        if norm:
            found[f"{name}.bias"] = (hidden,)
    return found


def make_weights(config: Mapping[str, Any], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes(config).items()}


def to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of the float32 bits."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[Any]], dtype: str = "F32") -> None:
    """``dtype`` BF16 cuts the float32 values off."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs, offset = [], 0
    for name, values in tensors.items():
        stored = to_bf16(values).astype("<u2") if dtype == "BF16" else values.astype(_CODES[dtype])
        blobs.append(stored.tobytes())
        header[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [offset, offset + len(blobs[-1])],
        }
        offset += len(blobs[-1])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def edit_json(path: Path, **changes: object) -> None:
    """Sets keys of a JSON object; a value of ``...`` removes the key."""
    value = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    value.update(changes)
    write_json(path, {key: item for key, item in value.items() if item is not ...})


def write_tiny(
    folder: Path,
    config: Mapping[str, Any] = CONFIG_5,
    *,
    weights: Mapping[str, NDArray[Any]] | None = None,
    prefix: str = "",
    dtype: str = "F32",
    shards: int = 1,
    **changes: object,
) -> Path:
    """Writes a checkpoint folder; ``changes`` are to config.json. No sentence-transformers files."""
    config = {**config, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    make_tokenizer().save(str(folder / "tokenizer.json"))
    special = {"unk_token": UNK, "cls_token": CLS, "sep_token": SEP, "pad_token": PAD, "mask_token": MASK}
    write_json(folder / "tokenizer_config.json", {**special, "model_max_length": 256, "tokenizer_class": "X"})
    named = {prefix + name: values for name, values in (weights or make_weights(config)).items()}
    if shards == 1:
        write_safetensors(folder / "model.safetensors", named, dtype)
        return folder
    names, where = list(named), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: named[name] for name in names[shard::shards]}
        write_safetensors(folder / file, part, dtype)
        where.update(dict.fromkeys(part, file))
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})
    return folder


def write_modules(folder: Path, *, generation: int = 6, pooling: str = "cls", normalize: bool = True) -> None:
    """The sentence-transformers files as ``generation`` 5 or 6 writes them."""
    new = generation >= 6
    kinds = {
        "Transformer": "base.modules.transformer.Transformer" if new else "models.Transformer",
        "Pooling": "sentence_transformer.modules.pooling.Pooling" if new else "models.Pooling",
        "Normalize": "base.modules.normalize.Normalize" if new else "models.Normalize",
    }
    names = ["Transformer", "Pooling"] + ["Normalize"] * normalize
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.{kinds[name]}"}
        for i, name in enumerate(names)
    ]
    write_json(folder / "modules.json", modules)
    flags = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken"}
    if new:
        step: dict[str, Any] = {"embedding_dimension": HIDDEN, "pooling_mode": pooling, "include_prompt": True}
        write_json(folder / "2_Normalize" / "config.json", {"module_input_name": "sentence_embedding"})
    else:
        step = {"word_embedding_dimension": HIDDEN, "include_prompt": True}
        step |= {f"pooling_mode_{flag}": name == pooling for name, flag in flags.items()}
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": 200, "do_lower_case": False})
    write_json(folder / "1_Pooling" / "config.json", step)

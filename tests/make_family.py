"""Build the rows of family.py with transformers and sentence-transformers, and make tests/golden/family from them:
``python tests/make_family.py [NAME ...]``, with the compare extra. No name means all.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from family import FAMILY, ROWS, TEXTS, DenseForm, Row, encodings, golden_file, hot_values, pack_files
from modernbert_llama.reference import SentenceReference
from modernbert_llama.safetensors_reader import read_tensors
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from specs import cosine_distance, relative_error
from tiny_checkpoint import write_json
from tokenizer_forms import save_form
from transformers import AutoTokenizer, ModernBertConfig, ModernBertForMaskedLM, ModernBertModel

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def build(row: Row, folder: Path) -> Path:
    """The row's folder, written by transformers and sentence-transformers; older files are then spelled anew."""
    encoder = folder if row.bare else folder.with_name(folder.name + "-encoder")
    limit = row.max_length or row.positions
    n_ids = save_form(row.tokenizer, encoder, model_max_length=limit, generation=row.generation)
    model = (ModernBertForMaskedLM if row.masked_lm else ModernBertModel)(config_of(row, encoder, n_ids))
    fill(row, model)
    model.to(DTYPES[row.stored]).save_pretrained(encoder)
    if not row.bare:
        _save_pipeline(row, encoder, folder)
    if row.generation == 4:
        spell_as_generation_4(row, folder)
    return folder


def config_of(row: Row, encoder: Path, n_ids: int) -> ModernBertConfig:
    tokenizer = AutoTokenizer.from_pretrained(str(encoder))
    layers, hidden, intermediate, heads = row.shape
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad")}
    return ModernBertConfig(
        vocab_size=-(-n_ids // 64) * 64,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=row.positions,
        global_rope_theta=row.thetas[0],
        local_rope_theta=row.thetas[1],
        bos_token_id=special["cls_token_id"],
        eos_token_id=special["sep_token_id"],
        **special,
        **({"matryoshka_dimensions": list(row.matryoshka)} if row.matryoshka else {}),
        **row.config,
    )


def fill(row: Row, module: Any) -> None:
    for name, parameter in module.named_parameters():
        parameter.data = torch.from_numpy(hot_values(row, name, tuple(parameter.shape)).copy())


def _save_pipeline(row: Row, encoder: Path, folder: Path) -> None:
    transformer = Transformer(str(encoder), model_kwargs={"dtype": DTYPES[row.stored]})
    modules: list[Any] = [transformer, Pooling(row.shape[1], row.pooling, include_prompt=row.include_prompt)]
    width = row.shape[1] * len(row.pooling)
    for kind in row.behind:
        if isinstance(kind, DenseForm):
            activation = getattr(torch.nn, kind.activation)()
            modules.append(Dense(width, kind.width, kind.bias, activation, use_residual=kind.residual))
            width = kind.width
        else:
            modules.append(Normalize() if kind == "Normalize" else LayerNorm(width))
        fill(row, modules[-1])
    model = SentenceTransformer(
        modules=modules,
        device="cpu",
        prompts=dict(row.prompts),
        default_prompt_name=row.default_prompt,
        similarity_fn_name=row.similarity,
    )
    model.save(str(folder), create_model_card=False)


# --- the files of older releases --------------------------------------------------------------------------------------


def _edited(path: Path, gone: tuple[str, ...] = (), **changes: Any) -> None:
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    write_json(path, {key: value for key, value in values.items() if key not in gone})


def spell_as_generation_4(row: Row, folder: Path) -> None:
    """config.json of transformers 4.48, the modules of sentence-transformers 3."""
    _edited(
        folder / "config.json",
        gone=("layer_types", "rope_parameters", "dtype"),
        global_attn_every_n_layers=3,
        global_rope_theta=row.thetas[0],
        local_rope_theta=row.thetas[1],
        layer_norm_eps=row.config.get("layer_norm_eps", 1e-5),
        position_embedding_type="absolute",
        reference_compile=None,
        torch_dtype={"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[row.stored],
        transformers_version="4.48.0",
        **({"rope_scaling": row.config["rope_scaling"]} if "rope_scaling" in row.config else {}),
    )
    if row.bare:
        return
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rpartition('.')[2]}"
    write_json(folder / "modules.json", modules)
    flags = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "weightedmean": "weightedmean_tokens"}
    names = ("cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
    write_json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": row.shape[1]}
        | {f"pooling_mode_{flags.get(name, name)}": name in row.pooling for name in names}
        | {"include_prompt": row.include_prompt},
    )
    limit = row.max_length or row.positions
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})


# --- goldens ----------------------------------------------------------------------------------------------------------


def save_files(row: Row, folder: Path) -> NDArray[np.uint8]:
    """The text files of a folder, the tokenizer's apart, and the names and shapes of its weights."""
    texts: dict[str, str] = {}
    weights: dict[str, dict[str, list[int]]] = {}
    tokenizer: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".safetensors":
            weights[name] = {key: list(stored.shape) for key, stored in read_tensors(path).items()}
        elif name == "tokenizer.json":
            tokenizer[name] = path.read_text(encoding="utf-8")
        elif path.is_file():
            texts[name] = path.read_text(encoding="utf-8")
    shared = FAMILY / f"tokenizer-{row.tokenizer}-{row.generation}.npz"
    np.savez(shared, saved=pack_files(tokenizer))
    return pack_files({"text": texts, "weights": weights, "tokenizer": row.tokenizer})


def make(row: Row) -> None:
    arrays: dict[str, NDArray[Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = build(row, Path(scratch) / "row")
        arrays["saved"] = save_files(row, folder)
        exact = SentenceReference(folder)
        for name, options in encodings(row):
            arrays[name] = exact.encode(TEXTS, **options)
        for precision, error in (("float32", relative_error), ("bfloat16", cosine_distance)):
            other = SentenceReference(folder, precision)  # type: ignore[arg-type]
            for name, options in encodings(row):
                pairs = zip(other.encode(TEXTS, **options), arrays[name], strict=True)
                arrays[f"{name}-{precision}"] = np.array([error(*pair) for pair in pairs])
    np.savez_compressed(golden_file(row), **arrays)  # type: ignore[arg-type]


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    FAMILY.mkdir(parents=True, exist_ok=True)
    for name in names or ROWS:
        start = time.perf_counter()
        make(ROWS[name])
        print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Build the rows of sequence_heads.py with transformers and sentence-transformers, and make their golden files:
``python tests/make_heads.py [NAME ...]``, with the compare extra. No name means all.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from family import golden_file
from make_family import DTYPES, config_of, fill, save_files, spell_as_generation_4
from modernbert_llama.reference import CrossReference
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from sequence_heads import HEADS, PAIRS, HeadRow, encodings
from tokenizer_forms import save_form
from transformers import ModernBertForSequenceClassification, ModernBertModel


def build(row: HeadRow, folder: Path) -> Path:
    """The row's folder, written by transformers and sentence-transformers."""
    encoder = folder if row.kind == "transformers" else folder.with_name(folder.name + "-encoder")
    limit = row.max_length or row.positions
    n_ids = save_form(row.tokenizer, encoder, model_max_length=limit, generation=row.generation)
    config = config_of(row, encoder, n_ids)
    model: Any
    if row.kind == "modular":
        model = ModernBertModel(config)
    else:
        config.id2label = dict(enumerate(row.labels))
        config.label2id = {label: index for index, label in enumerate(row.labels)}
        config.problem_type = row.problem_type
        model = ModernBertForSequenceClassification(config)
    fill(row, model)
    model.to(DTYPES[row.stored]).save_pretrained(encoder)
    options: dict[str, Any] = {"prompts": dict(row.prompts), "default_prompt_name": row.default_prompt, "device": "cpu"}
    if row.activation is not None:
        options["activation_fn"] = getattr(torch.nn, row.activation)()
    if row.kind == "cross-encoder":
        CrossEncoder(str(encoder), model_kwargs={"dtype": DTYPES[row.stored]}, **options).save(
            str(folder), create_model_card=False
        )
    elif row.kind == "modular":
        CrossEncoder(modules=_modules(row, encoder), **options).save(str(folder), create_model_card=False)
    if row.generation == 4:
        spell_as_generation_4(row, folder)
    return folder


def _modules(row: HeadRow, encoder: Path) -> list[Any]:
    modules: list[Any] = [
        Transformer(str(encoder), model_kwargs={"dtype": DTYPES[row.stored]}),
        Pooling(row.shape[1], row.pooling, include_prompt=row.include_prompt),
    ]
    width = row.shape[1] * len(row.pooling)
    for kind in row.behind:
        if isinstance(kind, str):
            modules.append(Normalize() if kind == "Normalize" else LayerNorm(width))
        else:
            activation = getattr(torch.nn, kind.activation)()
            modules.append(Dense(width, kind.width, kind.bias, activation, use_residual=kind.residual))
            width = kind.width
        fill(row, modules[-1])
    scores = Dense(width, len(row.labels), row.score_bias, None, module_output_name="scores")
    fill(row, scores)
    return [*modules, scores]


def make(row: HeadRow) -> None:
    """Logits in float64 for each encoding "NAME", (pairs, labels), the scores "NAME-scores", and transformers' own
    float32 and bfloat16 logits, "NAME-float32" and "NAME-bfloat16", rounded."""
    arrays: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = build(row, Path(scratch) / "row")
        arrays["saved"] = save_files(row, folder)
        exact = CrossReference(folder)
        others = {precision: CrossReference(folder, precision) for precision in ("float32", "bfloat16")}
        for name, options in encodings(row).items():
            arrays[name] = exact.predict(PAIRS, raw=True, **options)
            arrays[f"{name}-scores"] = exact.predict(PAIRS, **options)
            for precision, other in others.items():
                arrays[f"{name}-{precision}"] = other.predict(PAIRS, raw=True, **options).astype(np.float32)
    np.savez_compressed(golden_file(row), **arrays)


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or HEADS:
        start = time.perf_counter()
        make(HEADS[name])
        print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

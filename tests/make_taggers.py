"""Build the rows of taggers.py and their goldens with transformers: ``python tests/make_taggers.py [NAME ...]``."""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from family import Row, golden_file, pack_files
from make_family import DTYPES, config_of, fill, save_files, spell_as_generation_4
from modernbert_llama.reference import Precision, _rope_in_own_type, _rotary_float64
from numpy.typing import NDArray
from taggers import TAGGERS, TEXTS, calls
from tokenizer_forms import save_form
from transformers import AutoTokenizer, ModernBertForTokenClassification, TokenClassificationPipeline


def build(row: Row, folder: Path) -> Path:
    n_ids = save_form(row.tokenizer, folder, model_max_length=row.max_length or 512, generation=row.generation)
    model = ModernBertForTokenClassification(config_of(row, folder, n_ids))
    fill(row, model)
    model.to(DTYPES[row.stored]).save_pretrained(folder)
    if row.generation == 4:
        spell_as_generation_4(row, folder)
    return folder


def pipeline(folder: Path, precision: Precision = "float64") -> Any:
    model = ModernBertForTokenClassification.from_pretrained(str(folder), dtype=getattr(torch, precision))
    if precision == "float64":
        model.model.rotary_emb = _rotary_float64(model.config)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    return TokenClassificationPipeline(model=model, tokenizer=tokenizer, device="cpu")


def run(
    pipe: Any, precision: Precision, options: dict[str, Any], texts: Sequence[str] = TEXTS
) -> list[list[list[Any]]]:
    """For each text [label, score, word, start, end, index] of each span."""
    arguments: dict[str, Any] = {"aggregation_strategy": options["aggregation"]}
    arguments |= {"stride": options["stride"]} if "stride" in options else {}
    arguments |= {"ignore_labels": list(options["ignore_labels"])} if "ignore_labels" in options else {}
    with _rope_in_own_type(precision), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [pipe(text, **arguments) for text in texts]
    return [
        [
            [
                span["entity_group"] if "entity_group" in span else span["entity"],
                float(span["score"]),
                span["word"],
                span["start"],
                span["end"],
                span.get("index"),
            ]
            for span in spans
        ]
        for spans in found
    ]


def make(row: Row) -> None:
    arrays: dict[str, NDArray[Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = build(row, Path(scratch) / "row")
        arrays["saved"] = save_files(row, folder)
        exact = pipeline(folder)
        arrays["spans"] = pack_files({name: run(exact, "float64", options) for name, options in calls()})
        arrays["scores"] = _probabilities(exact, "float64")
        other = _probabilities(pipeline(folder, "bfloat16"), "bfloat16")
        arrays["bfloat16"] = np.abs(arrays["scores"] - other).max()
    np.savez_compressed(golden_file(row), **arrays)  # type: ignore[arg-type]


def _probabilities(pipe: Any, precision: Precision) -> NDArray[np.float64]:
    """Of every token of all texts, special ones left out, (tokens, labels)."""
    found = []
    for text in TEXTS:
        inputs = pipe.tokenizer(text, truncation=True, return_tensors="pt", return_special_tokens_mask=True)
        kept = inputs.pop("special_tokens_mask")[0].numpy() == 0
        with torch.inference_mode(), _rope_in_own_type(precision):
            logits = pipe.model(**inputs).logits[0].double()
        found.append(torch.softmax(logits, dim=-1).numpy()[kept])
    return np.concatenate(found)


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or TAGGERS:
        start = time.perf_counter()
        make(TAGGERS[name])
        print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Build the rows of late.py and their golden vectors: ``python tests/make_late.py [NAME ...]``, with the compare extra.

PyLate's rows need PyLate in a folder of its own (``pip install --target``), named by ``MODERNBERT_LLAMA_PYLATE``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from family import golden_file, hot_values
from late import DOCUMENTS, LATE_ROWS, QUERIES, LateRow
from make_family import DTYPES, config_of, fill, save_files
from modernbert_llama.reference import _rope_in_own_type, _rotary_float64
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from tiny_checkpoint import write_json
from tokenizer_forms import save_form
from transformers import ModernBertModel

PRECISIONS = ("float64", "float32", "bfloat16")


def build(row: LateRow, folder: Path) -> Path:
    """The row's folder, written by its maker."""
    encoder = folder.with_name(folder.name + "-encoder")
    n_ids = save_form("markers", encoder, model_max_length=row.encoder.positions, generation=5)
    config = config_of(row.encoder, encoder, n_ids)
    config.vocab_size = n_ids  # PyLate makes the embedding as long as the tokenizer
    model = ModernBertModel(config)
    fill(row.encoder, model)
    model.to(DTYPES[row.encoder.stored]).save_pretrained(encoder)
    if row.maker == "pylate":
        _run_pylate("build", row.name, encoder, folder)
    elif row.maker == "stanford":
        _save_stanford(row, encoder, folder)
    else:
        _save_encoder(row, encoder, folder)
    return folder


def encode(row: LateRow, folder: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """What the row's reference gives, by precision: "queries" and "documents" packed, and their "-lengths"."""
    if row.maker != "pylate":
        return {precision: _encode(folder, precision) for precision in PRECISIONS}
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "vectors.npz"
        _run_pylate("encode", folder, target, *PRECISIONS)
        with np.load(target) as file:
            return {
                precision: {
                    key.removeprefix(f"{precision}-"): file[key] for key in file.files if key.startswith(precision)
                }
                for precision in PRECISIONS
            }


def _encode(folder: Path, precision: str) -> dict[str, NDArray[Any]]:
    dtype = getattr(torch, precision)
    model: Any = MultiVectorEncoder(str(folder), device="cpu", model_kwargs={"dtype": dtype}).to(dtype)
    if precision == "float64":
        model[0].auto_model.rotary_emb = _rotary_float64(model[0].auto_model.config)
    arrays = {}
    with _rope_in_own_type(precision):  # type: ignore[arg-type]
        for kind, texts, run in (
            ("queries", QUERIES, model.encode_query),
            ("documents", DOCUMENTS, model.encode_document),
        ):
            rows = [run([text])[0] for text in texts]
            arrays[kind] = np.concatenate([item.double().numpy() for item in rows])
            arrays[f"{kind}-lengths"] = np.array([len(item) for item in rows])
    return arrays


def _run_pylate(*arguments: object) -> None:
    where = os.environ.get("MODERNBERT_LLAMA_PYLATE")
    if where is None:
        raise SystemExit("set MODERNBERT_LLAMA_PYLATE to a folder that PyLate is installed in")
    here = Path(__file__).parent
    path = os.pathsep.join([where, str(here), *filter(None, sys.path)])
    command = [sys.executable, "-P", str(here / "with_pylate.py"), *map(str, arguments)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": path})


def _save_stanford(row: LateRow, encoder: Path, folder: Path) -> None:
    """As colbert-ai: the encoder under its prefix and the projection beside it, artifact.metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in encoder.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config | {"architectures": ["HF_ColBERT"]})
    names = {f"model.{name}": values.shape for name, values in load_file(encoder / "model.safetensors").items()}
    names["linear.weight"] = shape = (row.dense[0][0], row.encoder.shape[1])
    tensors = {
        name: torch.from_numpy(hot_values(row.encoder, name, tuple(size)).copy()) for name, size in names.items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    write_json(folder / "artifact.metadata", {"dim": shape[0], "similarity": "cosine", **row.options})


def _save_encoder(row: LateRow, encoder: Path, folder: Path) -> None:
    options = dict(row.options)
    lengths = {key: options.pop(key, None) for key in ("query_length", "document_length", "query_expansion")}
    mask = MultiVectorMask(options.pop("skiplist_words", None), skiplist_tasks=options.pop("skiplist_tasks", None))
    normalize = options.pop("normalize", True)
    transformer = Transformer(str(encoder), model_kwargs={"dtype": DTYPES[row.encoder.stored]}, **lengths)
    modules: list[Any] = [transformer]
    width = row.encoder.shape[1]
    for outputs, residual, bias in row.dense:
        names = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
        dense = Dense(width, outputs, bias, torch.nn.Identity(), use_residual=residual, **names)
        fill(row.encoder, dense)
        modules.append(dense)
        width = outputs
    modules += [mask, *([Normalize(module_input_name="token_embeddings")] if normalize else [])]
    model = MultiVectorEncoder(modules=modules, device="cpu", **options)
    model.save(str(folder), create_model_card=False)


def make(row: LateRow) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = build(row, Path(scratch) / "row")
        arrays: dict[str, NDArray[Any]] = {"saved": save_files(row.encoder, folder)}
        for precision, found in encode(row, folder).items():
            if precision == "float64":
                arrays |= found
            else:
                for kind in ("queries", "documents"):
                    error = np.linalg.norm(found[kind] - arrays[kind]) / np.linalg.norm(arrays[kind])
                    arrays[f"{kind}-{precision}"] = np.array(error)
    np.savez_compressed(golden_file(row.encoder), **arrays)  # type: ignore[arg-type]


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or LATE_ROWS:
        start = time.perf_counter()
        make(LATE_ROWS[name])
        print(f"{name}: {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

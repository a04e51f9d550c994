"""Runs where PyLate is installed (it wants an older sentence-transformers): ``with_pylate.py build ROW ENCODER FOLDER``
saves a folder as PyLate does, ``with_pylate.py encode FOLDER OUT PRECISION ...`` writes PyLate's vectors.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from family import hot_values
from late import DOCUMENTS, LATE_ROWS, QUERIES, LateRow
from modernbert_llama.reference import _rope_in_own_type, _rotary_float64
from pylate import models
from sentence_transformers.models import Transformer


def build(row: LateRow, encoder: Path, folder: Path) -> None:
    width, modules = row.encoder.shape[1], [Transformer(str(encoder))]
    for outputs, residual, bias in row.dense:
        dense = models.Dense(width, outputs, bias=bias, use_residual=residual)
        for name, parameter in dense.named_parameters():
            parameter.data = torch.from_numpy(hot_values(row.encoder, name, tuple(parameter.shape)).copy())
        modules.append(dense)
        width = outputs
    options = dict(row.options)
    model = models.ColBERT(modules=modules, device="cpu", **options)
    model.save(str(folder), create_model_card=False)


def encode(folder: Path, precision: str) -> dict[str, Any]:
    dtype = getattr(torch, precision)
    model: Any = models.ColBERT(str(folder), device="cpu", model_kwargs={"dtype": dtype}).to(dtype)
    if precision == "float64":
        model[0].auto_model.rotary_emb = _rotary_float64(model[0].auto_model.config)
    arrays = {}
    with _rope_in_own_type(precision):  # type: ignore[arg-type]
        for kind, texts in (("queries", QUERIES), ("documents", DOCUMENTS)):
            prompt = model.prompts.get({"queries": "query", "documents": "document"}[kind]) or None
            rows = [
                model.encode([text], is_query=kind == "queries", prompt=prompt, convert_to_tensor=True)[0]
                for text in texts
            ]
            arrays[kind] = np.concatenate([row.double().numpy() for row in rows])
            arrays[f"{kind}-lengths"] = np.array([len(row) for row in rows])
    return {f"{precision}-{key}": values for key, values in arrays.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "build":
        build(LATE_ROWS[sys.argv[2]], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        found = [encode(Path(sys.argv[2]), precision) for precision in sys.argv[4:]]
        np.savez(sys.argv[3], **{key: values for arrays in found for key, values in arrays.items()})

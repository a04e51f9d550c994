"""Checkpoints with a head, made as transformers and sentence-transformers save them, over the encoder of a shape."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.workloads import DENSE_WIDTH, Task

__all__ = ["write_head_checkpoint"]

_SPARSITY: Final = (
    4.0  # standard deviations that a logit must be above the mean: some hundred of 50368 are, as in SPLADE
)


def write_head_checkpoint(task: Task, encoder: Path, path: Path) -> None:
    """The folder ``path``: ``encoder`` with a random head for ``task``."""
    import torch

    torch.manual_seed(5)
    {"rerank": _write_reranker, "sparse": _write_sparse, "multi-vector": _write_multi_vector}[task](encoder, path)


def _write_reranker(encoder: Path, path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(str(encoder), num_labels=1, classifier_pooling="mean")
    _draw(model.head.dense)
    _draw(model.classifier)
    model.save_pretrained(str(path))
    _copy_tokenizer(encoder, path)


def _write_sparse(encoder: Path, path: Path) -> None:
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(str(encoder))
    _draw(model.head.dense)
    model.head.norm.weight.data.fill_(model.config.hidden_size**-0.5)  # logits then deviate by 1
    model.decoder.bias.data.fill_(-_SPARSITY)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        _copy_tokenizer(encoder, Path(scratch))
        modules = [Transformer(scratch, transformer_task="fill-mask"), SpladePooling("max")]
        SparseEncoder(modules=modules, device="cpu").save(str(path), create_model_card=False)


def _write_multi_vector(encoder: Path, path: Path) -> None:
    import torch
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    transformer = Transformer(str(encoder))
    names = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    width = transformer.get_embedding_dimension()
    dense = Dense(width, DENSE_WIDTH, False, torch.nn.Identity(), **names)
    _draw(dense.linear)
    modules = [transformer, dense, MultiVectorMask(None), Normalize(module_input_name="token_embeddings")]
    MultiVectorEncoder(modules=modules, device="cpu").save(str(path), create_model_card=False)


def _draw(linear: Any) -> None:
    linear.weight.data.normal_(0.0, linear.in_features**-0.5)


def _copy_tokenizer(source: Path, target: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(source / name, target / name)

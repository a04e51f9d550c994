"""``load``: the class that a model is for."""

from __future__ import annotations

import os
from collections.abc import Mapping

from modernbert_llama import keys
from modernbert_llama.classifier import Classifier
from modernbert_llama.embedder import Embedder
from modernbert_llama.masked_lm import MaskedLM
from modernbert_llama.model import DType, Model, resolve
from modernbert_llama.multi_vector import MultiVectorEmbedder
from modernbert_llama.native import read_metadata
from modernbert_llama.reranker import Reranker
from modernbert_llama.sparse_embedder import SparseEmbedder
from modernbert_llama.token_classifier import TokenClassifier

__all__ = ["load"]

_CLASSES: Mapping[str, type[Model]] = {
    "embedding": Embedder,
    "fill-mask": MaskedLM,
    "multi-vector": MultiVectorEmbedder,
    "sequence-classification": Classifier,
    "sparse-embedding": SparseEmbedder,
    "token-classification": TokenClassifier,
}


def load(
    model: str | os.PathLike[str],
    *,
    n_threads: int | None = None,
    n_gpu_layers: int = 0,
    dtype: DType | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    per_channel: bool = False,
) -> Model:
    """The model of a GGUF file, a local Hugging Face folder or a hub id, as the class that its task asks for.

    A sequence classifier with one label is a ``Reranker``, any other a ``Classifier``. The arguments and the errors are
    those of the class; a class whose constructor takes more is made by itself.
    """
    path = resolve(model, dtype, revision, cache_dir, per_channel=per_channel)
    found = read_metadata(str(path))  # what is wrong with a file the class will say
    task, arch = found.get(keys.TASK), found.get("general.architecture")
    kind = _CLASSES.get(str(task), Embedder)
    labels = found.get(keys.CLASSIFIER_LABELS.format(arch=arch))
    if kind is Classifier and isinstance(labels, list) and len(labels) == 1:
        kind = Reranker
    return kind(path, n_threads=n_threads, n_gpu_layers=n_gpu_layers, per_channel=per_channel)

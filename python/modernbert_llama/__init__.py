"""ModernBERT embeddings through a patched llama.cpp, equal to Hugging Face's.

>>> from modernbert_llama import Embedder, convert
>>> convert("path/to/checkpoint", "model.gguf")  # doctest: +SKIP
>>> Embedder("model.gguf").embed(["hello", "world"]).shape  # doctest: +SKIP
(2, 768)
"""

from typing import TYPE_CHECKING

from modernbert_llama.convert import convert
from modernbert_llama.errors import ModernBertLlamaError
from modernbert_llama.llama_compat.libraries import use_with_llama_cpp
from modernbert_llama.precision import quantize_embeddings
from modernbert_llama.quantize import quantize

if TYPE_CHECKING:
    from modernbert_llama.classifier import Classifier
    from modernbert_llama.embedder import Embedder, embed
    from modernbert_llama.late_scores import maxsim
    from modernbert_llama.load import load
    from modernbert_llama.masked_lm import MaskedLM
    from modernbert_llama.multi_vector import MultiVectorEmbedder
    from modernbert_llama.reranker import Reranker
    from modernbert_llama.sparse_embedder import SparseEmbedder
    from modernbert_llama.token_classifier import TokenClassifier
else:
    # what needs the engine: use_with_llama_cpp() can say what is wrong with libraries that it cannot be imported with
    _MODULES = {
        "Classifier": "classifier",
        "Embedder": "embedder",
        "MaskedLM": "masked_lm",
        "MultiVectorEmbedder": "multi_vector",
        "Reranker": "reranker",
        "SparseEmbedder": "sparse_embedder",
        "TokenClassifier": "token_classifier",
        "embed": "embedder",
        "load": "load",
        "maxsim": "late_scores",
    }

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        found = getattr(importlib.import_module(f"modernbert_llama.{_MODULES[name]}"), name)
        globals()[name] = found  # ``load`` is the name of its module too, which the import has just bound
        return found


__all__ = [
    "Classifier",
    "Embedder",
    "MaskedLM",
    "ModernBertLlamaError",
    "MultiVectorEmbedder",
    "Reranker",
    "SparseEmbedder",
    "TokenClassifier",
    "convert",
    "embed",
    "load",
    "maxsim",
    "quantize",
    "quantize_embeddings",
    "use_with_llama_cpp",
]
__version__ = "0.1.0"

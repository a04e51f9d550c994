"""ModernBERT embeddings through a patched llama.cpp, equal to Hugging Face's.

>>> from modernbert_llama import Embedder, convert
>>> convert("path/to/checkpoint", "model.gguf")  # doctest: +SKIP
>>> Embedder("model.gguf").embed(["hello", "world"]).shape  # doctest: +SKIP
(2, 768)
"""

from modernbert_llama.convert import convert
from modernbert_llama.embedder import Embedder, embed
from modernbert_llama.errors import ModernBertLlamaError

__all__ = ["Embedder", "ModernBertLlamaError", "convert", "embed"]
__version__ = "0.1.0"

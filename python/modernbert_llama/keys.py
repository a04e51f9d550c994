"""The GGUF keys that the converter writes and the engine reads: the file contract in one place.

``ARCH_KEYS`` are format strings over the architecture name. Keys of stock llama.cpp keep its names; the ``modernbert``
flavour is the one of the first port; ``sentence_transformers.*`` is ours and ignored by stock readers.
"""

from __future__ import annotations

from typing import Final, Literal

Arch = Literal["modern-bert", "modernbert"]
ARCHS: Final[tuple[Arch, ...]] = ("modern-bert", "modernbert")

# llama.cpp's enum llama_pooling_type
POOLING_TYPES: Final[dict[str, int]] = {"none": 0, "mean": 1, "cls": 2, "last": 3}

TOKENIZER_JSON: Final = "tokenizer.huggingface.json"

# the sentence-transformers pipeline
ST_NORMALIZE: Final = "sentence_transformers.normalize"  # bool: a Normalize module ends the pipeline
ST_PROMPTS: Final = "sentence_transformers.prompts"  # string: JSON object, prompt name -> text
ST_DEFAULT_PROMPT_NAME: Final = "sentence_transformers.default_prompt_name"  # string
ST_MAX_SEQ_LENGTH: Final = "sentence_transformers.max_seq_length"  # u32, tokens with the special ones
ST_MATRYOSHKA_DIMS: Final = "sentence_transformers.matryoshka_dims"  # u32 array, largest first
ST_SIMILARITY: Final = "sentence_transformers.similarity_fn_name"  # string
ST_TRUNCATE_DIM: Final = "sentence_transformers.truncate_dim"  # u32: the default output width
SOURCE_SHA256: Final = "modernbert_llama.source_sha256"  # string: what the file was converted from

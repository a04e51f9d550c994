"""llama.cpp's constants that `Llama` takes, under llama-cpp-python's names and with its values."""

from __future__ import annotations

from typing import Final

LLAMA_DEFAULT_SEED: Final = 0xFFFFFFFF

LLAMA_POOLING_TYPE_UNSPECIFIED: Final = -1  # as the file says
LLAMA_POOLING_TYPE_NONE: Final = 0  # a vector for each token
LLAMA_POOLING_TYPE_MEAN: Final = 1
LLAMA_POOLING_TYPE_CLS: Final = 2
LLAMA_POOLING_TYPE_LAST: Final = 3
LLAMA_POOLING_TYPE_RANK: Final = 4

LLAMA_ATTENTION_TYPE_UNSPECIFIED: Final = -1
LLAMA_ATTENTION_TYPE_CAUSAL: Final = 0
LLAMA_ATTENTION_TYPE_NON_CAUSAL: Final = 1

LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED: Final = -1
LLAMA_ROPE_SCALING_TYPE_NONE: Final = 0
LLAMA_ROPE_SCALING_TYPE_LINEAR: Final = 1
LLAMA_ROPE_SCALING_TYPE_YARN: Final = 2

LLAMA_SPLIT_MODE_NONE: Final = 0
LLAMA_SPLIT_MODE_LAYER: Final = 1
LLAMA_SPLIT_MODE_ROW: Final = 2

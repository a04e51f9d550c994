"""The GGUF keys that the converter writes and the engine reads: the file contract in one place.

``CLASSIFIER_*`` are format strings over the architecture name. Keys of stock llama.cpp keep its names; the
``modernbert`` flavour is the one of the first port; ``sentence_transformers.*`` is ours and ignored by stock readers.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

Arch = Literal["modern-bert", "modernbert"]
ARCHS: Final[tuple[Arch, ...]] = ("modern-bert", "modernbert")

# llama.cpp's enum llama_pooling_type
POOLING_TYPES: Final[dict[str, int]] = {"none": 0, "mean": 1, "cls": 2, "last": 3}
POOLING_RANK: Final = 4  # llama.cpp pools by CLASSIFIER_POOLING and applies the tensors cls.*

# what the file is for; absent: "embedding"
Task = Literal[
    "embedding", "sequence-classification", "token-classification", "fill-mask", "sparse-embedding", "multi-vector"
]
TASKS: Final[tuple[Task, ...]] = get_args(Task)
TASK: Final = "modernbert_llama.task"  # string: one of TASKS

# the head, over the hidden states or what is pooled of them: llama.cpp's tensor names where it has them, all float32
CLASSIFIER_LABELS: Final = "{arch}.classifier.output_labels"  # string array, llama.cpp's: a name for each output
CLASSIFIER_POOLING: Final = "{arch}.classifier.pooling_type"  # u32, llama.cpp's: POOLING_TYPES below POOLING_RANK
HEAD_TENSORS: Final = (
    "cls.weight", "cls.bias", "cls.norm.weight", "cls.norm.bias", "cls.output.weight", "cls.output.bias"
)  # fmt: skip
DECODER: Final = "output.weight"  # llama.cpp's name: of a masked language model whose decoder is not the embedding
HEAD_ARRAY: Final = "modernbert_llama.head."  # f32 arrays, row by row: weights that stock lacks
HEAD_ACTIVATION: Final = "modernbert_llama.head.activation"  # string: behind cls; absent: "gelu"
PROBLEM_TYPE: Final = "modernbert_llama.problem_type"  # string: "multi_label_classification" and its like
SCORE_ACTIVATION: Final = "modernbert_llama.score_activation"  # string: class of torch.nn behind the logits

TOKENIZER_JSON: Final = "tokenizer.huggingface.json"
SPLIT_SPECIAL_TOKENS: Final = "modernbert_llama.split_special_tokens"  # bool: their spellings in a text are plain text
# u32 arrays: tokens of the ggml vocabulary that take the spaces before or after them; read by our patch of llama.cpp
STRIP_TOKENS: Final = {"left": "tokenizer.ggml.lstrip_token_ids", "right": "tokenizer.ggml.rstrip_token_ids"}

# the sentence-transformers pipeline
ST_POOLING: Final = "sentence_transformers.pooling"  # string: what POOLING_TYPES lacks; several joined by "+"
ST_INCLUDE_PROMPT: Final = "sentence_transformers.include_prompt"  # bool: false keeps a prompt out of the pooling
ST_STEPS: Final = "sentence_transformers.steps"  # string: JSON list of the modules between pooling and Normalize
ST_STEP_ARRAY: Final = "sentence_transformers.steps."  # f32 arrays of these, row by row: "...steps.0.weight"
ST_NORMALIZE: Final = "sentence_transformers.normalize"  # bool: a Normalize module ends the pipeline
ST_PROMPTS: Final = "sentence_transformers.prompts"  # string: JSON object, prompt name -> text
ST_DEFAULT_PROMPT_NAME: Final = "sentence_transformers.default_prompt_name"  # string
ST_MAX_SEQ_LENGTH: Final = "sentence_transformers.max_seq_length"  # u32, tokens with the special ones
ST_MATRYOSHKA_DIMS: Final = "sentence_transformers.matryoshka_dims"  # u32 array, largest first
ST_SIMILARITY: Final = "sentence_transformers.similarity_fn_name"  # string
ST_SPLADE_POOLING: Final = "sentence_transformers.splade_pooling"  # string: "max" or "sum"
ST_SPLADE_ACTIVATION: Final = "sentence_transformers.splade_activation"  # string: "relu" or "log1p_relu"
ST_MAX_ACTIVE_DIMS: Final = "sentence_transformers.max_active_dims"  # u32: the largest so many of a sparse embedding
ST_TRUNCATE_DIM: Final = "sentence_transformers.truncate_dim"  # u32: the default output width
MULTI_VECTOR: Final = "modernbert_llama.multi_vector"  # string: JSON object, see roles.encode_roles
SOURCE_SHA256: Final = "modernbert_llama.source_sha256"  # string: what the file was converted from

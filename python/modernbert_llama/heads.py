"""The heads that transformers puts on ModernBERT: what a checkpoint is for, and the weights behind the encoder.

What is not understood is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from modernbert_llama.errors import UnsupportedError
from modernbert_llama.jsonfile import Fields
from modernbert_llama.keys import DECODER, Task
from modernbert_llama.safetensors_reader import StoredTensor, take_tensor

__all__ = [
    "ARCHITECTURES",
    "HEAD_ACTIVATIONS",
    "MASKED_LM",
    "STANFORD",
    "Head",
    "HeadWeight",
    "read_architecture",
    "read_head",
]

ENCODER, MASKED_LM = "ModernBertModel", "ModernBertForMaskedLM"
STANFORD: Final = "HF_ColBERT"  # what ColBERT's own code saves: late_modules reads its projection
_SEQUENCE, _TOKENS = "ModernBertForSequenceClassification", "ModernBertForTokenClassification"

# what a folder without modules of sentence-transformers is for
ARCHITECTURES: Final[Mapping[str, Task]] = {
    ENCODER: "embedding",
    MASKED_LM: "fill-mask",
    _SEQUENCE: "sequence-classification",
    _TOKENS: "token-classification",
    STANFORD: "multi-vector",
}

# classifier_activation as transformers spells it -> the name in the file; "gelu" is the exact form
HEAD_ACTIVATIONS: Final = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_pytorch_tanh",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}
_PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


@dataclass(frozen=True)
class HeadWeight:
    """One weight of a head: its name in a GGUF file, and where it is stored. Matrices are (outputs, inputs)."""

    name: str
    stored: StoredTensor


@dataclass(frozen=True)
class Head:
    """dense (``cls``) -> activation -> LayerNorm (``cls.norm``) -> outputs (``cls.output``, or the decoder).

    The LayerNorm has the encoder's epsilon.
    """

    weights: tuple[HeadWeight, ...]
    activation: str  # a value of HEAD_ACTIVATIONS
    labels: tuple[str, ...]  # a name for each output; () for a decoder
    problem_type: str | None

    @classmethod
    def in_modules(cls, n_outputs: int) -> Head:
        """The head of a modular cross-encoder, whose weights are in the steps of its pipeline."""
        return cls((), "gelu", tuple(f"LABEL_{index}" for index in range(n_outputs)), None)

    @property
    def in_stock(self) -> bool:
        """Whether llama.cpp computes this head: it has the exact GELU, and no biases but the last."""
        names = {weight.name for weight in self.weights}
        return self.activation == "gelu" and not names & {"cls.bias", "cls.norm.bias"}


def read_architecture(fields: Fields) -> str:
    """The model class that config.json names: one of ``ARCHITECTURES``."""
    names = fields.strings("architectures") or (ENCODER,)
    for name in names:
        if name not in ARCHITECTURES:
            raise UnsupportedError(
                f"{fields.path}: architecture {name} cannot be converted; known are {', '.join(ARCHITECTURES)}"
            )
    return names[0]


def read_head(
    fields: Fields, architecture: str, hidden: int, vocab: int, tensors: Mapping[str, StoredTensor]
) -> Head | None:
    """The head of a checkpoint whose ``tensors`` are named as transformers does; None where the encoder stands alone.

    A ``ModernBertForMaskedLM`` may lack its head, as some that only embed do.
    """
    if architecture in (ENCODER, STANFORD) or (architecture == MASKED_LM and "head.dense.weight" not in tensors):
        return None
    labels = () if architecture == MASKED_LM else read_labels(fields)
    weights = []
    for hf_name, name, shape in _expected(fields, architecture, hidden, vocab, len(labels)):
        if hf_name == "decoder.weight" and fields.boolean("tie_word_embeddings", True):
            continue  # the token embedding; transformers overwrites one that is stored as well
        weights.append(HeadWeight(name, take_tensor(tensors, hf_name, shape)))
    activation = fields.string("classifier_activation", "gelu")
    if activation not in HEAD_ACTIVATIONS:
        raise UnsupportedError(
            f"{fields.path}: classifier_activation {activation!r} is not known; known are {', '.join(HEAD_ACTIVATIONS)}"
        )
    problem = fields.optional_string("problem_type")
    if problem is not None and problem not in _PROBLEM_TYPES:
        raise fields.wrong("problem_type", f"one of {', '.join(_PROBLEM_TYPES)}")
    return Head(tuple(weights), HEAD_ACTIVATIONS[activation], labels, problem)


def read_labels(fields: Fields) -> tuple[str, ...]:
    """id2label in the order of the outputs; without one, LABEL_0 to LABEL_(num_labels - 1), two of them by default."""
    names = fields.object("id2label")
    if not names.values:
        return tuple(f"LABEL_{index}" for index in range(fields.integer("num_labels", 2)))
    labels = []
    for index in range(len(names.values)):
        if str(index) not in names.values:
            raise fields.wrong("id2label", f"an entry for each of 0 to {len(names.values) - 1}")
        labels.append(names.string(str(index), ""))
    return tuple(labels)


def _expected(
    fields: Fields, architecture: str, hidden: int, vocab: int, n_labels: int
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Hugging Face's name, the GGUF name and the shape of every weight of the head."""
    yield "head.dense.weight", "cls.weight", (hidden, hidden)
    if fields.boolean("classifier_bias", False):
        yield "head.dense.bias", "cls.bias", (hidden,)
    yield "head.norm.weight", "cls.norm.weight", (hidden,)
    if fields.boolean("norm_bias", False):
        yield "head.norm.bias", "cls.norm.bias", (hidden,)
    if architecture == MASKED_LM:
        yield "decoder.weight", DECODER, (vocab, hidden)
        if fields.boolean("decoder_bias", True):
            yield "decoder.bias", "decoder.bias", (vocab,)
    else:
        yield "classifier.weight", "cls.output.weight", (n_labels, hidden)
        yield "classifier.bias", "cls.output.bias", (n_labels,)

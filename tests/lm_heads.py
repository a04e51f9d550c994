"""Masked language models by transformers, with weights so large that one wrong detail shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from modernbert_llama.synthetic import CheckpointSpec, write_checkpoint
from transformers import AutoTokenizer, ModernBertConfig, ModernBertForMaskedLM

# what differs from the defaults of ModernBertConfig
FORMS: Final[Mapping[str, dict[str, Any]]] = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "no_decoder_bias": {"decoder_bias": False},
    "all_biases": {"norm_bias": True, "classifier_bias": True, "mlp_bias": True, "attention_bias": True},
    "untied_biases": {"tie_word_embeddings": False, "norm_bias": True, "classifier_bias": True},
    "silu": {"classifier_activation": "silu", "hidden_activation": "silu"},
    "gelu_tanh": {"classifier_activation": "gelu_pytorch_tanh"},
    "sparse_prediction": {"sparse_prediction": True},
    "odd_vocabulary": {"vocab_size": 1027},
}
TEXTS: Final = (
    "The river [MASK] over the stones.",
    "[MASK]",
    "hello",
    "",
    "Wind and [MASK] water, " * 9,
    "a longer text about rivers and mountains. " * 20,
)


def save_checkpoint(folder: Path, form: str) -> Path:
    """A ``ModernBertForMaskedLM`` of three layers as transformers saves it, with the small tokenizer."""
    spec = CheckpointSpec(f"lm-{form}", 3, 64, 96, 2, pooling=None, max_positions=512, seed=70)
    write_checkpoint(folder, spec)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options: dict[str, Any] = {
        "vocab_size": spec.vocab_size,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
    }
    model = ModernBertForMaskedLM(ModernBertConfig(**(options | FORMS[form])))
    generator = torch.Generator().manual_seed(sorted(FORMS).index(form))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if name.endswith("bias"):
                weight.copy_(0.3 * noise)
            elif weight.ndim == 1:
                weight.copy_(1 + 0.2 * noise)
            elif "tok_embeddings" in name or "decoder" in name:
                weight.copy_(0.2 * noise)
            else:
                weight.copy_(noise * weight.shape[1] ** -0.5)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    model.save_pretrained(folder)
    return folder

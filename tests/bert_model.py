"""A GGUF file of a BERT with random weights: what an llama.cpp without ModernBERT is timed with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, PoolingType, quants

N_VOCAB, MAX_POSITIONS = 1000, 2048


def write_bert(path: Path, outtype: str, *, n_layer: int, n_embd: int, n_head: int, n_ff: int) -> Path:
    """Writes it; the matrices of the layers and of the embedding are of the type ``outtype``."""
    kind, state = GGMLQuantizationType[outtype.upper()], np.random.RandomState(5)
    writer = GGUFWriter(path, "bert")
    writer.add_context_length(MAX_POSITIONS)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layer)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.CLS)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    writer.add_token_list([*special, *(f"\u2581w{place}" for place in range(N_VOCAB - len(special)))])
    writer.add_token_types([3] * len(special) + [1] * (N_VOCAB - len(special)))
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    writer.add_sep_token_id(3)
    writer.add_mask_token_id(4)

    def matrix(name: str, rows: int, columns: int, exact: bool = False) -> None:
        values = (state.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)
        if exact or outtype == "f32":
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, quants.quantize(values, kind), raw_dtype=kind)

    def vectors(name: str, size: int) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(size, dtype=np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(size, dtype=np.float32))

    matrix("token_embd.weight", N_VOCAB, n_embd)
    matrix("position_embd.weight", MAX_POSITIONS, n_embd, exact=True)
    matrix("token_types.weight", 2, n_embd, exact=True)
    vectors("token_embd_norm", n_embd)
    for layer in range(n_layer):
        for name, rows, columns in (
            ("attn_q", n_embd, n_embd),
            ("attn_k", n_embd, n_embd),
            ("attn_v", n_embd, n_embd),
            ("attn_output", n_embd, n_embd),
            ("ffn_up", n_ff, n_embd),
            ("ffn_down", n_embd, n_ff),
        ):
            matrix(f"blk.{layer}.{name}.weight", rows, columns)
            writer.add_tensor(f"blk.{layer}.{name}.bias", np.zeros(rows, dtype=np.float32))
        vectors(f"blk.{layer}.attn_output_norm", n_embd)
        vectors(f"blk.{layer}.layer_output_norm", n_embd)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

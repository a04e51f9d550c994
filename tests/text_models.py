"""GGUF files of three architectures that generate text, made from a seed: where other test-suites fetch a model.

The vocabulary is byte-level BPE whose first 256 tokens are the bytes in GPT-2's order, as in the models of Qwen. The
transformer continues the sentences of `SENTENCES`: its embeddings and output weights hold which token follows which,
its layers are random and smaller. The recurrent and the hybrid model are random throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quants
from numpy.typing import NDArray

N_VOCAB: Final = 9800
# what the test-suites of the releases of llama-cpp-python expect of their models' vocabularies
PLACES: Final = {"0.3.36": {"Hello": 9419, " world": 1814}, "0.3.16": {"Hello": 9707, " world": 1879}}
WORDS: Final = (
    " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog", " The", "The", "Hello", " world",
    "capital", " capital", " of", " france", " is", " paris", " par", "rot", "true", "false", " or", " Pick", "Pick",
    " a", " number", " from", " to", " slow", "is", "Hello", " 1", " 10", "rue", "ick", "uick",
)  # fmt: skip
_CHAIN: Final = ("The", " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog", ".", " The")
FOLLOWS: Final = {
    **dict(zip((*_CHAIN[:-1], " The"), (*_CHAIN[1:], " quick"), strict=True)),
    "\n": "true",
    " par": "rot",
}
NUMBERS: Final = ("1", "2", "3", "4", "5", "6", "7", "8", "9")  # follow "\n", each less likely than the one before


def _gpt2_alphabet() -> list[str]:
    """The character that byte-level BPE writes for each byte, in the order of the bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters, spare = {}, 0
    for byte in range(256):
        if byte in printable:
            letters[byte] = chr(byte)
        else:
            letters[byte] = chr(256 + spare)
            spare += 1
    return [letters[byte] for byte in range(256)]


def _spelled(text: str) -> str:
    letters = _gpt2_alphabet()
    return "".join(letters[byte] for byte in text.encode())


def vocabulary(places: Mapping[str, int]) -> tuple[list[str], list[str], dict[str, int]]:
    """The tokens, the merges, and the id of each token by its text; ``places`` gives ids to words."""
    letters = _gpt2_alphabet()
    # GPT-2 orders the printable bytes first, so that "!" is 0
    ordered = sorted(letters, key=lambda letter: (ord(letter) >= 256, ord(letter)))
    tokens: dict[int, str] = dict(enumerate(ordered))
    fixed = {_spelled(word): place for word, place in places.items()}
    merges: list[str] = []
    known = set(ordered)
    free = iter([place for place in range(256, N_VOCAB - 2) if place not in fixed.values()])
    for word in WORDS:
        spelled = _spelled(word)
        for end in range(2, len(spelled) + 1):
            piece = spelled[:end]
            if piece not in known:
                known.add(piece)
                merges.append(f"{piece[:-1]} {piece[-1]}")
                tokens[fixed.get(piece) or next(free)] = piece
    tokens[N_VOCAB - 2], tokens[N_VOCAB - 1] = "<|endoftext|>", "<|im_end|>"
    listed = [tokens.get(place, f"[unused{place}]") for place in range(N_VOCAB)]
    return listed, merges, {token: place for place, token in enumerate(listed)}


def _open(path: Path, arch: str, release: str, *, n_embd: int, n_layer: int, n_ff: int) -> GGUFWriter:
    writer = GGUFWriter(path, arch)
    tokens, merges, _ = vocabulary(PLACES[release])
    writer.add_name(f"{arch} from a seed")
    writer.add_file_type(0)
    writer.add_vocab_size(N_VOCAB)
    writer.add_context_length(512)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layer)
    writer.add_feed_forward_length(n_ff)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    kinds = [TokenType.UNUSED if token.startswith("[unused") else TokenType.NORMAL for token in tokens]
    kinds[-2:] = [TokenType.CONTROL, TokenType.CONTROL]
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(N_VOCAB - 1)
    writer.add_bos_token_id(N_VOCAB - 2)
    writer.add_pad_token_id(N_VOCAB - 2)
    writer.add_add_bos_token(False)
    return writer


def _close(
    writer: GGUFWriter, tensors: Mapping[str, NDArray[np.floating]], outtype: str = "f32", widened: bool = False
) -> None:
    kind = GGMLQuantizationType[outtype.upper()]
    for name, values in tensors.items():
        exact = np.ascontiguousarray(values, dtype=np.float32)
        if values.ndim == 2 and outtype != "f32":
            stored = quants.quantize(exact, kind)
            if widened:
                writer.add_tensor(name, quants.dequantize(stored, kind))
            else:
                writer.add_tensor(name, stored, raw_dtype=kind)
        else:
            writer.add_tensor(name, exact)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class _Random:
    def __init__(self, seed: int) -> None:
        self._state = np.random.RandomState(seed)

    def matrix(self, rows: int, columns: int, gain: float = 1.0) -> NDArray[np.float64]:
        """Keeps the length of a vector, up to the gain."""
        values: NDArray[np.float64] = self._state.standard_normal((rows, columns)) * gain / np.sqrt(columns)
        return values

    def vector(self, n: int, centre: float = 0.0, spread: float = 0.1) -> NDArray[np.float64]:
        return centre + spread * self._state.standard_normal(n)


def _attention(random: _Random, prefix: str, n_embd: int, n_kv: int, gain: float) -> dict[str, NDArray[np.float64]]:
    return {
        f"{prefix}.attn_q.weight": random.matrix(n_embd, n_embd, 3.0),
        f"{prefix}.attn_k.weight": random.matrix(n_kv, n_embd, 3.0),
        f"{prefix}.attn_v.weight": random.matrix(n_kv, n_embd),
        f"{prefix}.attn_output.weight": random.matrix(n_embd, n_embd, gain),
    }


def _mlp(random: _Random, prefix: str, n_embd: int, n_ff: int, gain: float) -> dict[str, NDArray[np.float64]]:
    return {
        f"{prefix}.ffn_norm.weight": random.vector(n_embd, 1.0),
        f"{prefix}.ffn_gate.weight": random.matrix(n_ff, n_embd),
        f"{prefix}.ffn_up.weight": random.matrix(n_ff, n_embd),
        f"{prefix}.ffn_down.weight": random.matrix(n_embd, n_ff, gain),
    }


def write_llama(
    path: Path, release: str = "0.3.36", *, sentences: bool = True, outtype: str = "f32", widened: bool = False
) -> Path:
    """A transformer (``llama``); with ``sentences`` False random throughout, so that its layers decide.

    ``widened``: the weights of ``outtype``, stored as F32.
    """
    gain = 0.05 if sentences else 1.0
    n_embd, n_ff, n_head, n_head_kv = 128, 192, 4, 2
    random = _Random(1)
    writer = _open(path, "llama", release, n_embd=n_embd, n_layer=2, n_ff=n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head_kv)
    writer.add_rope_dimension_count(n_embd // n_head)
    writer.add_rope_freq_base(10000.0)
    embeddings = random.matrix(N_VOCAB, n_embd) * np.sqrt(n_embd)
    output = random.matrix(N_VOCAB, n_embd)
    if sentences:
        output *= 0.1
        ids = vocabulary(PLACES[release])[2]
        pairs: Sequence[tuple[str, str, float]] = [
            *((now, then, 20.0) for now, then in FOLLOWS.items()),
            *(("\n", number, 19.0 - 0.3 * place) for place, number in enumerate(NUMBERS)),
        ]
        for now, then, logit in pairs:
            direction = embeddings[ids[_spelled(now)]]
            output[ids[_spelled(then)]] += logit * direction / n_embd
    tensors = {"token_embd.weight": embeddings, "output_norm.weight": np.ones(n_embd), "output.weight": output}
    for layer in range(2):
        prefix = f"blk.{layer}"
        tensors[f"{prefix}.attn_norm.weight"] = random.vector(n_embd, 1.0)
        tensors |= _attention(random, prefix, n_embd, n_embd * n_head_kv // n_head, gain)
        tensors |= _mlp(random, prefix, n_embd, n_ff, gain)
    _close(writer, tensors, outtype, widened)
    return path


def write_mamba(path: Path, release: str = "0.3.36") -> Path:
    """A recurrent model (``mamba``)."""
    n_embd, n_inner, n_state, n_rank, n_conv = 64, 128, 16, 8, 4
    random = _Random(2)
    writer = _open(path, "mamba", release, n_embd=n_embd, n_layer=2, n_ff=0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(n_conv)
    writer.add_ssm_inner_size(n_inner)
    writer.add_ssm_state_size(n_state)
    writer.add_ssm_time_step_rank(n_rank)
    tensors = {
        "token_embd.weight": random.matrix(N_VOCAB, n_embd) * 4,
        "output_norm.weight": random.vector(n_embd, 1.0),
        "output.weight": random.matrix(N_VOCAB, n_embd, 4.0),
    }
    for layer in range(2):
        prefix = f"blk.{layer}"
        tensors |= {
            f"{prefix}.attn_norm.weight": random.vector(n_embd, 1.0),
            f"{prefix}.ssm_in.weight": random.matrix(2 * n_inner, n_embd, 2.0),
            f"{prefix}.ssm_conv1d.weight": random.matrix(n_inner, n_conv, 1.0),
            f"{prefix}.ssm_conv1d.bias": random.vector(n_inner),
            f"{prefix}.ssm_x.weight": random.matrix(n_rank + 2 * n_state, n_inner, 2.0),
            f"{prefix}.ssm_dt.weight": random.matrix(n_inner, n_rank),
            f"{prefix}.ssm_dt.bias": random.vector(n_inner),
            f"{prefix}.ssm_a": -np.tile(np.arange(1.0, n_state + 1), (n_inner, 1)),
            f"{prefix}.ssm_d": random.vector(n_inner, 1.0),
            f"{prefix}.ssm_out.weight": random.matrix(n_embd, n_inner, 2.0),
        }
    _close(writer, tensors)
    return path


def write_lfm2(path: Path, release: str = "0.3.36") -> Path:
    """A hybrid model (``lfm2``): short convolutions, then attention."""
    n_embd, n_ff, n_head, n_head_kv, n_conv = 64, 128, 4, 2, 3
    random = _Random(3)
    writer = _open(path, "lfm2", release, n_embd=n_embd, n_layer=2, n_ff=n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv([0, n_head_kv])
    writer.add_rope_freq_base(10000.0)
    writer.add_shortconv_l_cache(n_conv)
    tensors = {
        "token_embd.weight": random.matrix(N_VOCAB, n_embd) * 4,
        "token_embd_norm.weight": random.vector(n_embd, 1.0),
        "output.weight": random.matrix(N_VOCAB, n_embd, 4.0),
        "blk.0.shortconv.conv.weight": random.matrix(n_embd, n_conv),
        "blk.0.shortconv.in_proj.weight": random.matrix(3 * n_embd, n_embd),
        "blk.0.shortconv.out_proj.weight": random.matrix(n_embd, n_embd),
        "blk.1.attn_q_norm.weight": random.vector(n_embd // n_head, 1.0),
        "blk.1.attn_k_norm.weight": random.vector(n_embd // n_head, 1.0),
        **_attention(random, "blk.1", n_embd, n_embd * n_head_kv // n_head, 1.0),
    }
    for layer in range(2):
        tensors[f"blk.{layer}.attn_norm.weight"] = random.vector(n_embd, 1.0)
        tensors |= _mlp(random, f"blk.{layer}", n_embd, n_ff, 1.0)
    _close(writer, tensors)
    return path

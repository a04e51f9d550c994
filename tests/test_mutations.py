"""The fixtures are hot: one thing wrong in the file, and the bar of the parity tests is broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_edit import rewrite, shift, swap_halves
from models import gguf
from modernbert_llama.embedder import Embedder
from modernbert_llama.synthetic import token_ids
from specs import POOLINGS, SPECS, golden_arrays, relative_error

LENGTH = 130
VISIBLE = 1e-5  # and at least this much, whatever the bar

MUTATIONS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gate and up swapped in one layer": ("every2", {}, {"blk.3.ffn_up.weight": swap_halves}),
    "a window of 126 for 128": ("every2", {"attention.sliding_window": 126}, {}),
    "a window of 130 for 128": ("every2", {"attention.sliding_window": 130}, {}),
    "a window of 34 for 32": ("window32", {"attention.sliding_window": 34}, {}),
    "a window of 30 for 32": ("window32", {"attention.sliding_window": 30}, {}),
    "another global theta": ("every2", {"rope.freq_base": 150000.0}, {}),
    "another local theta": ("every2", {"rope.freq_base_swa": 11000.0}, {}),
    "the thetas the wrong way round": ("base", {"rope.freq_base": 1e4, "rope.freq_base_swa": 16e4}, {}),
    "tanh for erf": ("every2", {"hidden_activation": "gelu_pytorch_tanh"}, {}),
    "tanh for erf at base size": ("base", {"hidden_activation": "gelu_pytorch_tanh"}, {}),
    "erf for tanh": ("gelu-tanh", {"hidden_activation": "gelu"}, {}),
    "silu for gelu": ("every2", {"hidden_activation": "silu"}, {}),
    "one norm shifted": ("every2", {}, {"blk.4.attn_norm.weight": shift}),
    "the last norm shifted": ("every2", {}, {"output_norm.weight": shift}),
    "all layers global": ("every2", {"attention.sliding_window_pattern": [False] * 7}, {}),
    "the pattern one layer late": ("every2", {"attention.sliding_window_pattern": [True, False] * 3 + [True]}, {}),
    "another epsilon": ("ettin", {"attention.layer_norm_epsilon": 1e-5}, {}),
    "no attention factor of YaRN": ("yarn-global", {"rope.scaling.attn_factor": 1.0}, {}),
    "another end of the ramp": ("yarn-global", {"rope.scaling.yarn_beta_fast": 32.0}, {}),
    "another original context": ("yarn", {"rope.scaling.original_context_length": 512}, {}),
    "another local original context": ("yarn", {"rope.scaling.original_context_length_swa": 512}, {}),
    "local layers not scaled": ("yarn", {"rope.scaling.type_swa": "none"}, {}),
    "no local attention factor": ("yarn-local", {"rope.scaling.attn_factor_swa": 1.0}, {}),
    "linear for YaRN": ("yarn", {"rope.scaling.type": "linear"}, {}),
    "another linear factor": ("linear", {"rope.scaling.factor_swa": 3.1}, {}),
    **{
        f"no {tensor}": ("biases", {}, {f"{tensor}.bias": np.zeros_like})
        for tensor in (
            "token_embd_norm",
            "blk.2.attn_qkv",
            "blk.2.attn_output",
            "blk.2.attn_norm",
            "blk.2.ffn_norm",
            "blk.2.ffn_up",
            "blk.2.ffn_down",
            "output_norm",
        )
    },
}


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_mutation_breaks_the_bar(mutation: str, pooling: Any, tmp_path: Path) -> None:
    name, metadata, tensors = MUTATIONS[mutation]
    golden = golden_arrays(name)
    row = POOLINGS.index(pooling)
    broken = rewrite(gguf(name), tmp_path / "broken.gguf", metadata=metadata, tensors=tensors)
    ours = Embedder(broken, pooling=pooling).embed_tokens([token_ids(SPECS[name], LENGTH)], normalize=False)
    error = relative_error(ours[0], golden[str(LENGTH)][row])
    assert error > max(VISIBLE, 10 * golden[f"{LENGTH}-float32"][row])


def test_a_rewrite_alone_breaks_nothing(tmp_path: Path) -> None:
    copy = rewrite(gguf("biases"), tmp_path / "copy.gguf")
    texts = [token_ids(SPECS["biases"], LENGTH)]
    assert np.array_equal(Embedder(copy).embed_tokens(texts), Embedder(gguf("biases")).embed_tokens(texts))

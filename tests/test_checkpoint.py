"""Reading checkpoint folders: both config generations, pipelines, and everything that must be refused by name."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modernbert_llama.checkpoint import Checkpoint, content_sha256, read_checkpoint
from modernbert_llama.errors import CheckpointError, ModelNotFoundError, UnsupportedError
from modernbert_llama.rope import Rope, RopeScaling
from modernbert_llama.steps import Dense, LayerNorm
from numpy.typing import NDArray
from tiny_checkpoint import (
    CONFIG_4,
    CONFIG_5,
    FFN,
    HIDDEN,
    LAYERS,
    MASK,
    VOCAB,
    edit_json,
    make_tokenizer,
    make_weights,
    write_json,
    write_modules,
    write_safetensors,
    write_tiny,
)
from tokenizers import Tokenizer

CONFIGS = pytest.mark.parametrize("config", [CONFIG_4, CONFIG_5], ids=["transformers4", "transformers5"])


def read(folder: Path) -> Checkpoint:
    return read_checkpoint(folder)


@CONFIGS
def test_both_config_generations_say_the_same(tmp_path: Path, config: dict[str, Any]) -> None:
    found = read(write_tiny(tmp_path / "tiny", config))
    assert found.name == "tiny"
    c = found.config
    assert (c.vocab_size, c.hidden_size, c.ffn_size, c.n_layers, c.n_heads) == (VOCAB, HIDDEN, FFN, LAYERS, 4)
    assert (c.global_rope, c.local_rope, c.window, c.max_positions) == (Rope(80000.0), Rope(20000.0), 128, 512)
    assert c.norm_eps == 1e-6, "norm_eps, not layer_norm_eps"
    assert c.local_layers == (False, True, True, False)
    assert (c.attention_bias, c.mlp_bias, c.norm_bias) == (False, False, False)


def test_absent_keys_have_the_defaults_of_transformers(tmp_path: Path) -> None:
    gone = ("norm_eps", "local_attention", "rope_parameters", "layer_types", "hidden_activation", "attention_bias")
    folder = write_tiny(tmp_path)
    edit_json(folder / "config.json", **dict.fromkeys(gone, ...))
    c = read(folder).config
    assert (c.norm_eps, c.window, c.global_rope, c.local_rope, c.activation) == (
        1e-5,
        128,
        Rope(160000.0),
        Rope(10000.0),
        "gelu",
    )
    assert c.local_layers == (False, True, True, False)


def test_null_local_theta_is_the_global_one(tmp_path: Path) -> None:
    assert read(write_tiny(tmp_path, CONFIG_4, local_rope_theta=None)).config.local_rope == Rope(80000.0)


@pytest.mark.parametrize(
    ("every", "expected"), [(1, [0, 0, 0, 0]), (2, [0, 1, 0, 1]), (5, [0, 1, 1, 1])], ids=["every", "2nd", "5th"]
)
def test_global_layers_of_transformers_4(tmp_path: Path, every: int, expected: list[int]) -> None:
    found = read(write_tiny(tmp_path, CONFIG_4, global_attn_every_n_layers=every))
    assert list(found.config.local_layers) == [bool(local) for local in expected]


def test_irregular_layer_types(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    assert read(write_tiny(tmp_path, layer_types=kinds)).config.local_layers == (True, False, False, True)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [("gelu", "gelu"), ("silu", "silu"), ("swish", "silu"), ("relu", "relu"), ("gelu_new", "gelu_new")],
)
def test_activations(tmp_path: Path, name: str, canonical: str) -> None:
    assert read(write_tiny(tmp_path, hidden_activation=name)).config.activation == canonical


YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 160000.0}


def test_older_rope_scaling_goes_into_both_kinds_of_layers(tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 16}
    config = read(write_tiny(tmp_path, CONFIG_4, rope_scaling=scaling)).config
    expected = RopeScaling("yarn", 4.0, 128, 0.1 * math.log(4) + 1, 16.0, 1.0)
    assert (config.global_rope, config.local_rope) == (Rope(80000.0, expected), Rope(20000.0, expected))


def test_each_kind_of_layers_has_its_own_rope_scaling(tmp_path: Path) -> None:
    parameters = {"full_attention": YARN | {"attention_factor": 1.5}, "sliding_attention": {"rope_theta": 3.0}}
    config = read(write_tiny(tmp_path, rope_parameters=parameters)).config
    assert config.global_rope == Rope(160000.0, RopeScaling("yarn", 4.0, 512, 1.5))  # original: the positions
    assert config.local_rope == Rope(3.0)


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ({"rope_type": "linear", "factor": 2}, RopeScaling("linear", 2.0)),
        ({"rope_type": "dynamic", "factor": 2}, None),  # begins beyond the positions
        ({"rope_type": "default", "type": "yarn", "factor": 4.0}, None),  # saved by transformers 5 from the next one
        ({"type": "yarn", "factor": 4.0}, None),  # transformers 5 reads rope_type alone here
        (
            YARN | {"factor": None, "original_max_position_embeddings": 128, "mscale": 2.0, "mscale_all_dim": 1.0},
            RopeScaling("yarn", 4.0, 128, (0.2 * math.log(4) + 1) / (0.1 * math.log(4) + 1)),
        ),
        (YARN | {"beta_slow": 0, "mscale": 2.0}, RopeScaling("yarn", 4.0, 512, 0.1 * math.log(4) + 1)),
    ],
    ids=["linear", "dynamic", "saved again", "type alone", "no factor", "zeros"],
)
def test_rope_scaling_as_transformers_resolves_it(
    tmp_path: Path, scaling: dict[str, Any], expected: RopeScaling | None
) -> None:
    folder = write_tiny(tmp_path, rope_parameters=None, layer_types=None, rope_scaling=scaling)
    assert read(folder).config.local_rope.scaling == expected


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"model_type": "bert"}, UnsupportedError, "bert"),
        ({"hidden_activation": "quick_gelu"}, UnsupportedError, "quick_gelu"),
        ({"architectures": ["ModernBertForSequenceClassification"]}, CheckpointError, "lacks tensor 'head.dense"),
        ({"architectures": ["ModernBertForTokenClassification"]}, CheckpointError, "lacks tensor 'head.dense"),
        ({"architectures": ["ModernBertForQuestionAnswering"]}, UnsupportedError, "ForQuestionAnswering"),
        ({"quantization_config": {"quant_method": "gptq"}}, UnsupportedError, "gptq"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, UnsupportedError, "llama3"),
        ({"rope_parameters": {"sliding_attention": YARN | {"long_factor": [1.0]}}}, UnsupportedError, "long_factor"),
        ({"rope_parameters": {"full_attention": YARN | {"factor": -1}}}, CheckpointError, "factor"),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear"}}}, CheckpointError, "factor"),
        ({"rope_scaling": {"rope_type": "linear", "beta_fast": 1}}, UnsupportedError, "beta_fast"),
        ({"rope_scaling": {"partial_rotary_factor": 0.5}}, UnsupportedError, "partial_rotary_factor"),
        ({"rope_parameters": {"rope_theta": 1.0}}, UnsupportedError, "rope_theta"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 0}}}, CheckpointError, "rope_theta"),
        ({"layer_types": ["full_attention"]}, CheckpointError, "layer_types"),
        ({"layer_types": ["full_attention"] * 3 + ["linear_attention"]}, UnsupportedError, "linear_attention"),
        ({"layer_types": None, "global_attn_every_n_layers": 0}, CheckpointError, "global_attn_every_n_layers"),
        ({"num_attention_heads": 5}, CheckpointError, "hidden_size"),
        ({"num_attention_heads": HIDDEN}, CheckpointError, "hidden_size"),
        ({"local_attention": 33}, CheckpointError, "local_attention"),
        ({"local_attention": -2}, CheckpointError, "local_attention"),
        ({"num_hidden_layers": "4"}, CheckpointError, "num_hidden_layers"),
        ({"num_hidden_layers": True}, CheckpointError, "num_hidden_layers"),
        ({"norm_eps": float("nan")}, CheckpointError, "norm_eps"),
        ({"norm_bias": 1}, CheckpointError, "norm_bias"),
        ({"classifier_pooling": "max"}, UnsupportedError, "max"),
        ({"attention_bias": True}, CheckpointError, "layers.0.attn.Wqkv.bias"),
        ({"vocab_size": VOCAB + 1}, CheckpointError, "tok_embeddings"),
    ],
    ids=str,
)
def test_config_refusals_name_the_key(
    tmp_path: Path, changes: dict[str, Any], error: type[CheckpointError], named: str
) -> None:
    folder = write_tiny(tmp_path)
    edit_json(folder / "config.json", **changes)
    with pytest.raises(error, match=named):
        read(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"a": ' * 100000, "\xff"], ids=["empty", "cut", "list", "deep", "latin"]
)
def test_damaged_config(tmp_path: Path, text: str) -> None:
    folder = write_tiny(tmp_path)
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read(folder)


# --- weights


def weight_names(found: Checkpoint) -> set[str]:
    return {weight.stored.name for weight in found.weights}


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_weights_of_every_form(tmp_path: Path, prefix: str, shards: int, dtype: str) -> None:
    weights = make_weights({**CONFIG_5, "mlp_bias": True})
    folder = write_tiny(tmp_path, weights=weights, prefix=prefix, shards=shards, dtype=dtype, mlp_bias=True)
    found = read(folder)
    assert weight_names(found) == {prefix + name for name in weights}
    for weight in found.weights:
        expected = weights[weight.stored.name.removeprefix(prefix)]
        if dtype == "F16":
            expected = expected.astype(np.float16).astype(np.float32)
        elif dtype == "BF16":
            expected = (expected.view(np.uint32) & 0xFFFF0000).view(np.float32)
        values = weight.stored.read()
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, expected)
        if len(weight.shape) == 2:
            np.testing.assert_array_equal(weight.stored.read((3, 7)), expected[3:7])


def test_masked_lm_head_is_left_out_where_modules_embed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = make_weights(CONFIG_5)
    head = {
        "head.dense.weight": np.ones((HIDDEN, HIDDEN), np.float32),
        "head.norm.weight": np.ones(HIDDEN, np.float32),
        "decoder.bias": np.ones(VOCAB, np.float32),
    }
    weights = {f"model.{name}": values for name, values in encoder.items()} | head
    folder = write_tiny(tmp_path, weights=weights, architectures=["ModernBertForMaskedLM"])
    found = read(folder)
    assert found.task == "fill-mask"
    assert found.head is not None
    assert {weight.name for weight in found.head.weights} == {"cls.weight", "cls.norm.weight", "decoder.bias"}
    write_modules(folder)
    with caplog.at_level(logging.INFO, "modernbert_llama"):
        found = read(folder)
    assert found.task == "embedding"
    assert found.head is None
    assert weight_names(found) == {f"model.{name}" for name in encoder}
    assert "decoder.bias, head.dense.weight, head.norm.weight" in caplog.text
    edit_json(folder / "config.json", architectures=["ModernBertModel"])
    with pytest.raises(UnsupportedError, match=r"decoder\.bias.*2 more"):
        read(folder)


@pytest.mark.parametrize("name", ["pooler.dense.weight", "layers.4.attn.Wo.weight", "layers.0.attn_norm.weight"])
def test_unknown_tensor_is_named(tmp_path: Path, name: str) -> None:
    weights = {**make_weights(CONFIG_5), name: np.zeros((2, 2), np.float32)}
    with pytest.raises(UnsupportedError, match=name):
        read(write_tiny(tmp_path, weights=weights))


def test_bias_against_the_config_is_named(tmp_path: Path) -> None:
    weights = make_weights({**CONFIG_5, "norm_bias": True})
    with pytest.raises(UnsupportedError, match=r"norm\.bias.*no biases"):
        read(write_tiny(tmp_path, weights=weights))


def test_missing_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    weights = make_weights(CONFIG_5)
    without = {name: values for name, values in weights.items() if name != "layers.2.mlp.Wi.weight"}
    with pytest.raises(CheckpointError, match=r"lacks tensor 'layers\.2\.mlp\.Wi\.weight'.*\[192, 64\]"):
        read(write_tiny(tmp_path / "missing", weights=without))
    transposed = {**weights, "layers.1.mlp.Wo.weight": weights["layers.1.mlp.Wo.weight"].T}
    with pytest.raises(
        CheckpointError, match=r"'layers\.1\.mlp\.Wo\.weight' has shape \[96, 64\], expected \[64, 96\]"
    ):
        read(write_tiny(tmp_path / "misshapen", weights=transposed))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_nan_and_infinity_are_named(tmp_path: Path, value: float, dtype: str) -> None:
    weights = make_weights(CONFIG_5)
    weights["layers.3.attn.Wo.weight"][5, 7] = value
    found = read(write_tiny(tmp_path, weights=weights, dtype=dtype))
    bad = next(w.stored for w in found.weights if w.stored.name == "layers.3.attn.Wo.weight")
    with pytest.raises(CheckpointError, match=r"'layers\.3\.attn\.Wo\.weight'.*\[5, 7\]"):
        bad.read()
    with pytest.raises(CheckpointError, match=r"\[5, 7\]"):
        bad.read((4, 8))


def test_pickle_is_refused(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedError, match=r"pytorch_model\.bin.*safetensors"):
        read(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        read(folder)


def rewrite_header(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize("dtype", ["F8_E4M3", "I8", "U32"])
def test_quantised_tensors_are_refused(tmp_path: Path, dtype: str) -> None:
    folder = write_tiny(tmp_path)
    rewrite_header(folder, lambda header: header["final_norm.weight"].update(dtype=dtype))
    with pytest.raises(UnsupportedError, match=rf"final_norm\.weight.*{dtype}"):
        read(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [0, 5]},
        {"data_offsets": [-256, 0]},
        {"data_offsets": [2**50, 2**50 + 256]},
        {"shape": [64.0]},
        {"shape": None},
        {"data_offsets": [0]},
        {"dtype": None},
    ],
    ids=str,
)
def test_damaged_safetensors_header(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write_tiny(tmp_path)
    rewrite_header(folder, lambda header: header["final_norm.weight"].update(change))
    with pytest.raises(CheckpointError, match=r"final_norm\.weight"):
        read(folder)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_truncated_safetensors(tmp_path: Path, keep: int) -> None:
    folder = write_tiny(tmp_path)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read(folder)


def test_git_lfs_pointer(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        read(folder)


def test_shards(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, shards=3)
    shard = folder / "model-00002-of-00003.safetensors"
    shard.rename(folder / "elsewhere")
    with pytest.raises(CheckpointError, match=shard.name):
        read(folder)
    write_safetensors(shard, make_weights(CONFIG_5))
    with pytest.raises(CheckpointError, match=r"as well"):
        read(folder)
    edit_json(folder / "model.safetensors.index.json", weight_map={"final_norm.weight": "../evil.safetensors"})
    with pytest.raises(CheckpointError, match="evil"):
        read(folder)


def test_adapter_and_foreign_folders(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "adapter")
    write_json(folder / "adapter_config.json", {"peft_type": "LORA"})
    with pytest.raises(UnsupportedError, match="adapter"):
        read(folder)
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        read(tmp_path)
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        read(tmp_path / "nowhere")


# --- sentence-transformers


@pytest.mark.parametrize("generation", [5, 6])
@pytest.mark.parametrize(
    ("pooling", "expected"), [("cls", "cls"), ("mean", "mean"), ("max", "max"), ("lasttoken", "last")]
)
@pytest.mark.parametrize("normalize", [False, True])
def test_pipeline(tmp_path: Path, generation: int, pooling: str, expected: str, normalize: bool) -> None:
    folder = write_tiny(tmp_path)  # its classifier_pooling says mean
    write_modules(folder, generation=generation, pooling=pooling, normalize=normalize)
    found = read(folder).pipeline
    assert (found.pooling, found.normalize) == (expected, normalize)
    assert found.max_seq_length == (200 if generation == 5 else 256)  # sentence_bert_config.json, or the tokenizer's
    assert (found.prompts, found.default_prompt_name, found.truncate_dim, found.matryoshka_dims) == ({}, None, None, ())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode": ["lasttoken", "cls"]}, "last+cls"),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, "mean_sqrt_len"),
        (
            {"pooling_mode_weightedmean_tokens": True, "pooling_mode_mean_sqrt_len_tokens": True},
            "mean_sqrt_len+weightedmean",
        ),
        (
            {"pooling_mode_lasttoken": True, "pooling_mode_max_tokens": True, "pooling_mode_cls_token": True},
            "cls+max+last",
        ),
        ({"pooling_mode_cls_token": False}, "mean"),
    ],
    ids=str,
)
def test_poolings_concatenated(tmp_path: Path, config: dict[str, Any], expected: str) -> None:
    folder = write_tiny(tmp_path)
    write_modules(folder)
    write_json(folder / "1_Pooling" / "config.json", config | {"include_prompt": False})
    found = read(folder).pipeline
    assert (found.pooling, found.include_prompt) == (expected, False)


def write_behind(folder: Path, *modules: tuple[str, dict[str, Any], dict[str, NDArray[Any]]]) -> Path:
    """A checkpoint with CLS pooling and ``modules`` behind it: (class path, config, weights)."""
    write_tiny(folder)
    write_modules(folder, normalize=False)
    listing = json.loads((folder / "modules.json").read_text())
    for index, (kind, config, weights) in enumerate(modules, start=2):
        where = f"{index}_{kind.rpartition('.')[2]}"
        listing.append({"idx": index, "name": str(index), "path": where, "type": f"sentence_transformers.{kind}"})
        write_json(folder / where / "config.json", config)
        if weights:
            write_safetensors(folder / where / "model.safetensors", weights)
    write_json(folder / "modules.json", listing)
    return folder


def array(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


DENSE = {
    "in_features": HIDDEN,
    "out_features": 8,
    "bias": True,
    "activation_function": "torch.nn.modules.activation.GELU",
}
DENSE_WEIGHTS = {"linear.weight": array(8, HIDDEN), "linear.bias": array(8)}


def test_modules_behind_the_pooling(tmp_path: Path) -> None:
    second = {"in_features": 8, "out_features": 4, "bias": False, "use_residual": True}
    folder = write_behind(
        tmp_path,
        ("models.Dense", DENSE, DENSE_WEIGHTS),
        (
            "sentence_transformer.modules.layer_norm.LayerNorm",
            {"dimension": 8},
            {"norm.weight": array(8), "norm.bias": array(8)},
        ),
        ("models.Dropout", {"dropout": 0.5}, {}),
        ("base.modules.dense.Dense", second, {"linear.weight": array(4, 8), "residual.weight": array(4, 8)}),
        ("models.Normalize", {}, {}),
    )
    found = read(folder).pipeline
    first, norm, last = found.steps
    assert found.normalize
    assert isinstance(first, Dense)
    assert isinstance(norm, LayerNorm)
    assert isinstance(last, Dense)
    assert (first.activation, last.activation, last.bias) == ("GELU", "Tanh", None)
    np.testing.assert_array_equal(first.weight, DENSE_WEIGHTS["linear.weight"])
    assert last.residual is not None
    edit_json(folder / "config_sentence_transformers.json", truncate_dim=5)
    with pytest.raises(CheckpointError, match="truncate_dim"):  # the embedding has 4 values
        read(folder)


@pytest.mark.parametrize(
    ("changes", "weights", "named"),
    [
        ({"activation_function": "my.Activation"}, {}, "my.Activation"),
        ({"activation_function": "torch.nn.modules.activation.GLU"}, {}, "GLU"),
        ({"module_input_name": "token_embeddings"}, {}, "token_embeddings"),
        ({"in_features": 16}, {}, "in_features"),
        ({"out_features": 4}, {}, "linear.weight"),
        ({"bias": False}, {}, "linear.bias"),
        ({"gate": True}, {}, "gate"),
        ({"use_residual": True}, {}, "residual.weight"),
        ({}, {"extra": array(1)}, "extra"),
        ({}, {"linear.bias": np.full(8, np.inf, np.float32)}, "linear.bias"),
    ],
    ids=str,
)
def test_dense_refusals(tmp_path: Path, changes: dict[str, Any], weights: dict[str, NDArray[Any]], named: str) -> None:
    folder = write_behind(tmp_path, ("models.Dense", DENSE | changes, DENSE_WEIGHTS | weights))
    with pytest.raises(CheckpointError, match=named):
        read(folder)


def test_dense_in_a_pickle(tmp_path: Path) -> None:
    folder = write_behind(tmp_path, ("models.Dense", DENSE, {}))
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UnsupportedError, match="pickle"):
        read(folder)


def test_dense_weights_are_part_of_the_content(tmp_path: Path) -> None:
    folders = [
        write_behind(tmp_path / name, ("models.Dense", DENSE, DENSE_WEIGHTS | {"linear.bias": array(8) * scale}))
        for name, scale in (("a", 1), ("b", 2))
    ]
    assert content_sha256(folders[0]) != content_sha256(folders[1])


def test_pooling_without_modules_is_the_classifiers(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    assert read(folder).pipeline.pooling == "mean"
    edit_json(folder / "config.json", classifier_pooling=...)
    assert read(folder).pipeline.pooling == "cls"


def test_saved_settings(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, matryoshka_dims=[16, 64, 32])
    write_modules(folder)
    saved = folder / "config_sentence_transformers.json"
    prompts = {"query": "search_query: ", "document": None, "日本": "検索: "}
    write_json(
        saved,
        {
            "prompts": prompts,
            "default_prompt_name": "query",
            "similarity_fn_name": "dot",
            "truncate_dim": 32,
            "model_type": "SentenceTransformer",
        },
    )
    found = read(folder).pipeline
    assert found.prompts == {"query": "search_query: ", "document": "", "日本": "検索: "}
    assert (found.default_prompt_name, found.similarity_fn_name, found.truncate_dim) == ("query", "dot", 32)
    assert found.matryoshka_dims == (64, 32, 16)
    for changes, named in (
        ({"default_prompt_name": "x"}, "'x'"),
        ({"truncate_dim": HIDDEN + 1}, "truncate_dim"),
        ({"prompts": {"query": 1}}, "query"),
        ({"matryoshka_dims": [HIDDEN + 1]}, "matryoshka_dims"),
    ):
        write_json(saved, {"prompts": prompts} | changes)
        with pytest.raises(CheckpointError, match=named):
            read(folder)


@pytest.mark.parametrize(("limit", "expected"), [(10**30, 512), (1e30, 512), (40, 40), (None, 512), (9999, 512)])
def test_maximum_length_is_capped_by_the_positions(tmp_path: Path, limit: float | None, expected: int) -> None:
    folder = write_tiny(tmp_path)
    edit_json(folder / "tokenizer_config.json", model_max_length=limit)
    assert read(folder).pipeline.max_seq_length == expected


def test_encoder_in_a_sub_folder(tmp_path: Path) -> None:
    write_tiny(tmp_path / "0_Transformer")
    write_modules(tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write_json(tmp_path / "modules.json", modules)
    assert len(read(tmp_path).weights) == len(make_weights(CONFIG_5))
    modules[0]["path"] = "../0_Transformer"
    write_json(tmp_path / "modules.json", modules)
    with pytest.raises(CheckpointError, match="outside"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "'median'"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "first"]}, "'first'"),
        ("1_Pooling/config.json", {"pooling_mode_new": True}, "pooling_mode_new"),
        ("2_Normalize/config.json", {"module_input_name": "token_embeddings"}, "token_embeddings"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "fill-mask"),
        ("sentence_bert_config.json", {"query_length": 32}, "query_length"),
        ("sentence_bert_config.json", {"processing_kwargs": {"text": {}}}, "processing_kwargs"),
        ("sentence_bert_config.json", {"tokenizer_args": {"do_lower_case": True}}, r"tokenizer_args\.do_lower_case"),
        ("config_sentence_transformers.json", {"model_type": "CrossEncoder"}, "not a Dense for scores"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "maxsim"}, "maxsim"),
    ],
    ids=str,
)
def test_pipeline_refusals(tmp_path: Path, file: str, changes: dict[str, Any], named: str) -> None:
    folder = write_tiny(tmp_path)
    write_modules(folder)
    edit_json(folder / file, **changes)
    with pytest.raises(UnsupportedError, match=named):
        read(folder)


@pytest.mark.parametrize(
    "kind",
    [
        "sentence_transformers.models.WordWeights",
        "sentence_transformers.base.modules.router.Router",
        "pylate.models.Dense.Dense",
        "sentence_transformers.models.CNN",
        "custom_st.Pooling",
    ],
)
def test_unknown_modules_are_named(tmp_path: Path, kind: str) -> None:
    folder = write_tiny(tmp_path)
    write_modules(folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[2]["type"] = kind
    write_json(folder / "modules.json", modules)
    with pytest.raises(UnsupportedError, match=kind):
        read(folder)


@pytest.mark.parametrize("kept", [[0], [0, 2], [1], [0, 1, 1]])
def test_module_orders_that_are_not_known(tmp_path: Path, kept: list[int]) -> None:
    folder = write_tiny(tmp_path)
    write_modules(folder)
    modules = json.loads((folder / "modules.json").read_text())
    write_json(folder / "modules.json", [modules[index] for index in kept])
    with pytest.raises(UnsupportedError, match=r"modules\.json"):
        read(folder)


# --- tokenizer


def test_vocabulary(tmp_path: Path) -> None:
    found = read(write_tiny(tmp_path)).vocabulary
    assert len(found.tokens) == len(found.types) == VOCAB
    assert found.tokens[:5] == ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
    assert found.types[:5] == (3,) * 5
    assert found.tokens[264:272] == tuple(" " * n for n in range(2, 10))
    assert found.types[264:272] == (4,) * 8
    assert found.tokens[272] == "[PAD272]"
    assert set(found.types[272:]) == {5}
    assert set(found.types[5:264]) == {1}
    assert found.merges == ("h e", "l l", "he ll")
    assert (found.bos, found.eos) == (1, 2)
    assert found.special == {"unk": 0, "cls": 1, "sep": 2, "pad": 3, "mask": 4}


def test_merges_as_strings_and_special_tokens_by_the_template_alone(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    (folder / "tokenizer_config.json").unlink()
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["merges"] = [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    write_json(folder / "tokenizer.json", tokenizer)
    found = read(folder).vocabulary
    assert found.merges == ("h e", "l l", "he ll")
    assert (found.bos, found.eos, found.special) == (1, 2, {"cls": 1, "sep": 2})


def test_an_unchanged_tokenizer_is_kept_to_the_byte(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    assert read(folder).tokenizer.json == (folder / "tokenizer.json").read_text(encoding="utf-8")


PLAIN_MASK = {
    "content": MASK,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "single_word": False,
    "special": True,
}
TEXT = "hello [MASK] [X] [Y]  hell[CLS]"


@pytest.mark.parametrize(
    "changes",
    [
        {"added_tokens_decoder": {"4": PLAIN_MASK}},
        {"added_tokens_decoder": {"290": PLAIN_MASK | {"content": "[Y]"}, "280": PLAIN_MASK | {"content": "[X]"}}},
        {"extra_special_tokens": ["[X]", "[Y]"]},
        {"additional_special_tokens": ["[Y]"]},
        {"extra_special_tokens": {"x_token": "[X]"}},
        {"pad_token": "[X]"},
        {"mask_token": PLAIN_MASK | {"content": "[Y]", "__type": "AddedToken"}},
        {"query_token": "[Y]"},
        {"add_prefix_space": True, "do_lower_case": True, "add_bos_token": False, "padding_side": "left"},
    ],
    ids=str,
)
@pytest.mark.live
def test_tokens_of_the_tokenizer_config_as_transformers_runs_them(tmp_path: Path, changes: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    folder = write_tiny(tmp_path)
    edit_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", **changes)
    ids = Tokenizer.from_str(read(folder).tokenizer.json).encode(TEXT).ids
    assert ids == transformers.AutoTokenizer.from_pretrained(str(folder))(TEXT)["input_ids"]


def test_tokens_of_the_tokenizer_config_change_the_ids(tmp_path: Path) -> None:
    plain = make_tokenizer().encode(TEXT).ids
    folder = write_tiny(tmp_path)
    edit_json(
        folder / "tokenizer_config.json",
        added_tokens_decoder={"4": PLAIN_MASK, "280": PLAIN_MASK | {"content": "[X]"}},
        extra_special_tokens=["[Y]"],
    )
    found = read(folder)
    ids = Tokenizer.from_str(found.tokenizer.json).encode(TEXT).ids
    assert found.vocabulary.tokens[272:274] == ("[X]", "[Y]")
    assert {272, 273} <= set(ids)
    assert ids.index(4) == plain.index(4) + 1, "[MASK] no longer takes the space before it"


ONE = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.update(model={"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}), "WordLevel"),
        (lambda t: t["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (lambda t: t["model"].update(merges=[]), "no merges"),
        (lambda t: t["pre_tokenizer"].update(add_prefix_space=True), "space before the text"),
        (lambda t: t["pre_tokenizer"].update(use_regex=False), "a split of its own"),
        (lambda t: t.update(pre_tokenizer={"type": "Whitespace"}), "Whitespace"),
        (lambda t: t.update(pre_tokenizer=None), "characters"),
        (lambda t: t.update(normalizer={"type": "Lowercase"}), "Lowercase"),
        (lambda t: t.update(normalizer={"type": "Sequence", "normalizers": [{"type": "NFKC"}]}), "NFKC"),
        (lambda t: t["post_processor"].update(single=[ONE, ONE, {"Sequence": {"id": "A", "type_id": 0}}]), "template"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_run_otherwise_gets_no_ggml_vocabulary(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    folder = write_tiny(tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    change(tokenizer)
    write_json(folder / "tokenizer.json", tokenizer)
    found = read(folder)
    assert found.vocabulary.model == "none"
    assert found.vocabulary.tokens == ()
    assert reason in str(found.vocabulary.why_none)
    assert found.tokenizer.json == (folder / "tokenizer.json").read_text(encoding="utf-8")


def test_whether_merges_decide_is_asked_only_where_it_changes_ids(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["ignore_merges"] = True
    write_json(folder / "tokenizer.json", tokenizer)
    assert read(folder).vocabulary.pre == "modern-bert"  # every token is what its merges make
    tokenizer["model"]["vocab"]["hello"] = 280  # but this one
    write_json(folder / "tokenizer.json", tokenizer)
    assert "GPT-2 split" in str(read(folder).vocabulary.why_none)


def test_dropout_is_refused(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["dropout"] = 0.1
    write_json(folder / "tokenizer.json", tokenizer)
    with pytest.raises(UnsupportedError, match="dropout"):
        read(folder)


def test_tokenizer_beyond_the_embedding_or_absent(tmp_path: Path) -> None:
    config = {**CONFIG_5, "vocab_size": 270}
    with pytest.raises(CheckpointError, match="id 271"):
        read(write_tiny(tmp_path / "small", config))
    folder = write_tiny(tmp_path / "absent")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        read(folder)
    for name in ("spiece.model", "vocab.txt"):
        (folder / name).write_bytes(b"")
        with pytest.raises(UnsupportedError, match=name):
            read(folder)
        (folder / name).unlink()
    for damaged in (b"", b"\x00" * 40):
        (folder / "tokenizer.model").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
            read(folder)
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        read(folder)


# --- content


def test_content_digest_follows_content_alone(tmp_path: Path) -> None:
    first = write_tiny(tmp_path / "first")
    second = write_tiny(tmp_path / "second")
    (second / "README.md").write_text("not part of it")
    assert content_sha256(first) == content_sha256(second)
    seen = {content_sha256(first)}
    write_modules(second, generation=5)
    seen.add(content_sha256(second))
    edit_json(second / "1_Pooling" / "config.json", include_prompt=False)
    seen.add(content_sha256(second))
    edit_json(second / "tokenizer_config.json", model_max_length=3)
    seen.add(content_sha256(second))
    (second / "tokenizer.model").write_bytes(b"a SentencePiece model")
    seen.add(content_sha256(second))
    weights = make_weights(CONFIG_5, seed=1)
    write_safetensors(second / "model.safetensors", weights)
    seen.add(content_sha256(second))
    assert len(seen) == 6

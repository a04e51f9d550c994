"""The GGUF that the converter writes, read back with the gguf package, and what it leaves behind when it fails."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from modernbert_llama import keys
from modernbert_llama.cache import cache_folder, converted
from modernbert_llama.checkpoint import content_sha256
from modernbert_llama.convert import OutType, convert
from modernbert_llama.errors import CheckpointError, ConversionError, InputError, ModelNotFoundError, UnsupportedError
from numpy.typing import NDArray
from tiny_checkpoint import (
    CONFIG_4,
    CONFIG_5,
    FFN,
    HIDDEN,
    LAYERS,
    VOCAB,
    edit_json,
    make_weights,
    write_json,
    write_modules,
    write_tiny,
)

ARCHS = pytest.mark.parametrize("arch", keys.ARCHS)


def metadata(path: Path) -> dict[str, Any]:
    fields = gguf.GGUFReader(path).fields
    return {name: field.contents() for name, field in fields.items() if not name.startswith("GGUF.")}


def tensors(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def values(tensor: gguf.ReaderTensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return found


def expected_names(weights: dict[str, NDArray[np.float32]], arch: str) -> dict[str, NDArray[np.float32]]:
    """The contract between Hugging Face's names and the file's, spelled out a second time."""
    plain = {
        "embeddings.tok_embeddings": "token_embd",
        "embeddings.norm": "token_embd_norm",
        "final_norm": "output_norm",
        "attn_norm": "attn_norm",
        "attn.Wqkv": "attn_qkv",
        "attn.Wo": "attn_output",
        "mlp_norm": "ffn_norm",
        "mlp.Wo": "ffn_down",
    }
    found = {}
    for name, value in weights.items():
        module, kind = name.rsplit(".", 1)
        block = ""
        if module.startswith("layers."):
            _, layer, module = module.split(".", 2)
            block = f"blk.{layer}."
        if module != "mlp.Wi":
            found[f"{block}{plain[module]}.{kind}"] = value
        elif arch == "modern-bert":
            found[f"{block}ffn_up.{kind}"] = value
        else:
            found[f"{block}ffn_gate.{kind}"], found[f"{block}ffn_up.{kind}"] = value[:FFN], value[FFN:]
    return found


@ARCHS
@pytest.mark.parametrize("biases", [False, True], ids=["plain", "biases"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_every_tensor_is_exact_in_f32(tmp_path: Path, arch: keys.Arch, biases: bool, prefix: str) -> None:
    flags = dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias"), biases)
    config = {**CONFIG_5, **flags}
    weights = make_weights(config)
    folder = write_tiny(tmp_path / "in", config, weights=weights, prefix=prefix, shards=2)
    found = tensors(convert(folder, tmp_path / "out.gguf", arch=arch))
    expected = expected_names(weights, arch)
    assert found.keys() == expected.keys()
    assert "blk.0.attn_norm.weight" not in found
    for name, tensor in found.items():
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert list(tensor.shape) == list(reversed(expected[name].shape))
        np.testing.assert_array_equal(tensor.data, expected[name], err_msg=name)


@pytest.mark.parametrize(
    ("outtype", "kind", "tolerance"), [("f16", "F16", 2**-11), ("bf16", "BF16", 2**-8), ("q8_0", "Q8_0", None)]
)
@ARCHS
def test_half_and_quantised_types(
    tmp_path: Path, outtype: OutType, kind: str, tolerance: float | None, arch: keys.Arch
) -> None:
    weights = make_weights({**CONFIG_5, "mlp_bias": True})
    folder = write_tiny(tmp_path / "in", weights=weights, mlp_bias=True)
    path = convert(folder, tmp_path / "out.gguf", outtype=outtype, arch=arch)
    expected = expected_names(weights, arch)
    for name, tensor in tensors(path).items():
        if expected[name].ndim == 1:
            assert tensor.tensor_type.name == "F32"
            np.testing.assert_array_equal(tensor.data, expected[name])
            continue
        assert tensor.tensor_type.name == kind
        error = np.abs(values(tensor) - expected[name])
        if tolerance is not None:
            assert (error <= np.abs(expected[name]) * tolerance + 2**-25).all()
        else:  # half a step of each block of 32, and what rounding its float16 scale adds
            peak = np.abs(expected[name]).reshape(-1, 32).max(axis=1, keepdims=True)
            assert (error.reshape(-1, 32) <= peak * (0.5 / 127 + 2**-11)).all()
    found = metadata(path)
    assert found["general.file_type"] == {"f16": 1, "bf16": 32, "q8_0": 7}[outtype]
    assert found.get("general.quantization_version") == (2 if outtype == "q8_0" else None)


def test_bf16_rounds_to_nearest_even(tmp_path: Path) -> None:
    weights = make_weights(CONFIG_5)
    patterns = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0xBF818000, 0x00000001], np.uint32)
    weights["layers.0.attn.Wo.weight"][0, :6] = patterns.view(np.float32)
    path = convert(write_tiny(tmp_path / "in", weights=weights), tmp_path / "out.gguf", outtype="bf16")
    stored = values(tensors(path)["blk.0.attn_output.weight"])[0, :6].copy().view(np.uint32) >> 16
    assert [hex(bits) for bits in stored] == ["0x3f80", "0x3f82", "0x3f81", "0x3f80", "0xbf82", "0x0"]


def test_bf16_weights_stay_exact_in_bf16_and_f32(tmp_path: Path) -> None:
    weights = make_weights(CONFIG_5)
    folder = write_tiny(tmp_path / "in", weights=weights, dtype="BF16")
    for outtype in ("bf16", "f32"):
        for name, tensor in tensors(convert(folder, tmp_path / "out.gguf", outtype=outtype)).items():
            cut = (expected_names(weights, "modern-bert")[name].view(np.uint32) & 0xFFFF0000).view(np.float32)
            np.testing.assert_array_equal(values(tensor), cut)


def test_q8_0_rows_that_do_not_fit_stay_f16(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_tiny(
        tmp_path / "in", intermediate_size=40, weights=make_weights({**CONFIG_5, "intermediate_size": 40})
    )
    path = convert(folder, tmp_path / "out.gguf", outtype="q8_0")
    types = {name: tensor.tensor_type.name for name, tensor in tensors(path).items()}
    assert types["blk.1.ffn_down.weight"] == "F16"
    assert types["blk.1.ffn_up.weight"] == "Q8_0"
    assert "blk.1.ffn_down" in caplog.text


@pytest.mark.parametrize(
    ("outtype", "fits", "overflows"), [("f16", 65504.0, 65520.0), ("q8_0", 65504.0 * 127, 65520.0 * 127)]
)
def test_values_too_large_for_half_precision_are_refused(
    tmp_path: Path, outtype: OutType, fits: float, overflows: float
) -> None:
    weights = make_weights(CONFIG_5)
    for value, accepted in ((fits, True), (-overflows, False), (overflows, False)):
        weights["layers.1.mlp.Wo.weight"][3, 3] = value
        folder = write_tiny(tmp_path / "in", weights=weights)
        if accepted:
            found = tensors(convert(folder, tmp_path / "out.gguf", outtype=outtype))
            assert np.isfinite(values(found["blk.1.ffn_down.weight"])).all()
        else:
            with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.Wo\.weight.*too large"):
                convert(folder, tmp_path / "out.gguf", outtype=outtype)


COMMON = {
    "vocab_size": VOCAB,
    "context_length": 512,
    "embedding_length": HIDDEN,
    "block_count": LAYERS,
    "feed_forward_length": FFN,
    "attention.head_count": 4,
    "attention.layer_norm_epsilon": pytest.approx(1e-6, rel=1e-6),
    "attention.causal": False,
    "hidden_activation": "gelu",
    "pooling_type": 2,
}
OWN: dict[str, dict[str, object]] = {
    "modern-bert": {
        "attention.sliding_window": 128,
        "attention.sliding_window_pattern": 3,
        "rope.freq_base": 80000.0,
        "rope.freq_base_swa": 20000.0,
        "rope.scaling.type": "none",
    },
    "modernbert": {
        "attention.local_attn_window": 128,
        "attention.global_attn_every_n_layers": 3,
        "rope.freq_base_global": 80000.0,
        "rope.freq_base_local": 20000.0,
        "normalize_embeddings": True,
    },
}


@ARCHS
@pytest.mark.parametrize("config", [CONFIG_4, CONFIG_5], ids=["transformers4", "transformers5"])
def test_metadata(tmp_path: Path, arch: keys.Arch, config: dict[str, Any]) -> None:
    folder = write_tiny(tmp_path / "tiny", config, matryoshka_dims=[16, 32])
    write_modules(folder)
    prompts = {"query": "q: ", "日本": "検索"}
    settings = {"prompts": prompts, "default_prompt_name": "query", "similarity_fn_name": "cosine", "truncate_dim": 32}
    write_json(folder / "config_sentence_transformers.json", settings)
    found = metadata(convert(folder, tmp_path / "out.gguf", arch=arch))
    assert {name.removeprefix(f"{arch}."): v for name, v in found.items() if name.startswith(f"{arch}.")} == (
        COMMON | OWN[arch]
    )
    assert (found["general.architecture"], found["general.name"], found["general.file_type"]) == (arch, "tiny", 0)
    assert found[keys.ST_NORMALIZE] is True
    assert found[keys.ST_PROMPTS] == '{"query": "q: ", "日本": "検索"}'
    assert (found[keys.ST_DEFAULT_PROMPT_NAME], found[keys.ST_SIMILARITY]) == ("query", "cosine")
    assert (found[keys.ST_MAX_SEQ_LENGTH], found[keys.ST_TRUNCATE_DIM]) == (256, 32)
    assert found[keys.ST_MATRYOSHKA_DIMS] == [32, 16]
    assert found[keys.SOURCE_SHA256] == content_sha256(folder)


@ARCHS
def test_tokenizer(tmp_path: Path, arch: keys.Arch) -> None:
    folder = write_tiny(tmp_path / "in")
    found = metadata(convert(folder, tmp_path / "out.gguf", arch=arch))
    own = {name.removeprefix("tokenizer.ggml."): v for name, v in found.items() if name.startswith("tokenizer.ggml.")}
    tokens, types = own.pop("tokens"), own.pop("token_type")
    assert own == {
        "model": "gpt2",
        "pre": "modern-bert" if arch == "modern-bert" else "gpt-2",
        "merges": ["h e", "l l", "he ll"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        "seperator_token_id": 2,
        "padding_token_id": 3,
        "mask_token_id": 4,
        "cls_token_id": 1,
        "add_bos_token": True,
        "add_eos_token": True,
        "add_sep_token": False,
        "normalizer.nfc": True,
        "lstrip_token_ids": [4],
    }
    assert len(tokens) == len(types) == VOCAB
    assert (tokens[4], types[4], tokens[264], types[264], tokens[-1], types[-1]) == (
        "[MASK]",
        3,
        "  ",
        4,
        "[PAD299]",
        5,
    )
    assert found[keys.TOKENIZER_JSON] == (folder / "tokenizer.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("layers", "stored"),
    [
        ("GGGG", 1),
        ("GLGL", 2),
        ("GLLG", 3),
        ("GLLL", 4),
        ("LLLL", [True] * 4),
        ("LGLG", [True, False, True, False]),
        ("GGLL", [False, False, True, True]),
    ],
)
@ARCHS
def test_layer_pattern(tmp_path: Path, arch: keys.Arch, layers: str, stored: object) -> None:
    kinds = [{"G": "full_attention", "L": "sliding_attention"}[letter] for letter in layers]
    found = metadata(convert(write_tiny(tmp_path / "in", layer_types=kinds), tmp_path / "out.gguf", arch=arch))
    regular = arch == "modernbert" and isinstance(stored, int)
    name = "global_attn_every_n_layers" if regular else "sliding_window_pattern"
    assert found[f"{arch}.attention.{name}"] == stored
    assert ("modernbert.attention.global_attn_every_n_layers" in found) == regular


def test_memory_stays_near_one_tensor(tmp_path: Path) -> None:
    config = {**CONFIG_5, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 24, "layer_types": None}
    folder = write_tiny(tmp_path / "in", config)
    largest = 2 * 512 * 256 * 4
    convert(write_tiny(tmp_path / "warm"), tmp_path / "warm.gguf")
    tracemalloc.start()
    try:
        for outtype in ("f32", "q8_0"):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            path = convert(folder, tmp_path / "out.gguf", outtype=outtype)
            peak = tracemalloc.get_traced_memory()[1] - before
            assert peak < 5 * largest
            assert peak < (folder / "model.safetensors").stat().st_size / 8
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 4 * largest


# --- what a failure leaves behind


def only_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("before", [None, b"an earlier file"])
def test_a_failed_conversion_leaves_the_folder_as_it_was(tmp_path: Path, before: bytes | None) -> None:
    weights = make_weights(CONFIG_5)
    weights["final_norm.weight"][3] = np.nan  # the last tensor: everything else is written by then
    folder = write_tiny(tmp_path / "in", weights=weights)
    out = tmp_path / "out"
    out.mkdir()
    if before is not None:
        (out / "model.gguf").write_bytes(before)
    with pytest.raises(CheckpointError, match=r"final_norm\.weight.*NaN.*\[3\]"):
        convert(folder, out / "model.gguf")
    assert only_files(out) == (["model.gguf"] if before else [])
    if before is not None:
        assert (out / "model.gguf").read_bytes() == before


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny(tmp_path / "in")
    out = tmp_path / "out"
    out.mkdir()
    seen: list[list[str]] = []
    write = gguf.GGUFWriter.write_tensor_data

    def interrupted(self: gguf.GGUFWriter, tensor: NDArray[Any]) -> None:
        write(self, tensor)
        seen.append(only_files(out))
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", interrupted)
    # a background shell job starts with SIGINT ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            convert(folder, out / "model.gguf")
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(seen[0]) == 1, "there was a temporary file"
    assert "model.gguf" not in seen[0]
    assert only_files(out) == []


def test_a_file_size_limit_is_a_named_error(tmp_path: Path) -> None:
    """A full disk in small: writing fails with OSError in the middle of the file."""
    folder = write_tiny(tmp_path / "in")
    out = tmp_path / "out"
    out.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ConversionError, match=r"cannot write .*model\.gguf") as caught:
            convert(folder, out / "model.gguf")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(caught.value, OSError)
    assert only_files(out) == []


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of ``size`` bytes; skips the test where none may be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("told", "named"), [("before writing", "MB free"), ("while writing", "full|No space left")], ids=["before", "while"]
)
def test_a_full_disk_is_a_named_error(tmp_path: Path, told: str, named: str) -> None:
    folder = write_tiny(tmp_path / "in")
    whole = convert(folder, tmp_path / "whole.gguf")
    weights = sum(int(tensor.n_bytes) for tensor in tensors(whole).values())
    # room for a part of the weights, or for all of them but not for the metadata as well
    size = weights // 2 if told == "before writing" else (weights // 4096 + 1) * 4096
    assert size < whole.stat().st_size
    with small_disk(tmp_path / "disk", size) as disk:
        with pytest.raises(ConversionError, match=named) as caught:
            convert(folder, disk / "model.gguf")
        assert "model.gguf" in str(caught.value)
        assert only_files(disk) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_named_error(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "in")
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    with pytest.raises(ConversionError, match="ermission"):
        convert(folder, out / "model.gguf")


def test_output_keeps_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    path = convert(write_tiny(tmp_path / "in"), tmp_path / "out.gguf")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"outtype": "q4_0"}, InputError, "q4_0"),
        ({"arch": "bert"}, InputError, "bert"),
        ({"revision": "main"}, InputError, "revision"),
        ({"output": "."}, InputError, "is a folder"),
        ({"output": "nowhere/out.gguf"}, InputError, "nowhere"),
        ({"source": "./nothing"}, ModelNotFoundError, "nothing"),
        ({"source": "a\0b"}, ModelNotFoundError, "a"),
        ({"source": "in/config.json"}, InputError, "is a file"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], error: type[Exception], named: str
) -> None:
    write_tiny(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=named):
        convert(**({"source": "in", "output": "out.gguf"} | arguments))
    assert only_files(tmp_path) == ["in"]


def test_unsupported_checkpoint_writes_nothing(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "in", architectures=["ModernBertForQuestionAnswering"])
    with pytest.raises(UnsupportedError, match="ModernBertForQuestionAnswering"):
        convert(folder, tmp_path / "out.gguf")
    assert only_files(tmp_path) == ["in"]


def test_progress_bar_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tiny(tmp_path / "in")
    convert(folder, tmp_path / "quiet.gguf", show_progress=None)  # not a terminal
    assert capsys.readouterr().err == ""
    convert(folder, tmp_path / "loud.gguf", show_progress=True)
    captured = capsys.readouterr()
    assert "loud.gguf: 100%" in captured.err
    assert captured.out == ""


# --- the cache


def test_cache_is_keyed_by_content(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    cache = tmp_path / "cache"
    folder = write_tiny(tmp_path / "one")
    first = converted(folder, cache_dir=cache)
    stamp = first.stat().st_mtime_ns, first.stat().st_ino
    assert converted(folder, cache_dir=cache) == first
    assert converted(write_tiny(tmp_path / "two"), cache_dir=cache) == first, "the same content elsewhere"
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == stamp, "and not converted again"
    assert converted(folder, "f16", cache_dir=cache) != first
    edit_json(folder / "config.json", global_rope_theta=..., rope_parameters={"full_attention": {"rope_theta": 1e4}})
    changed = converted(folder, cache_dir=cache)
    assert changed != first
    assert metadata(changed)["modern-bert.rope.freq_base"] == 1e4
    assert len(only_files(cache)) == 3


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"MODERNBERT_LLAMA_CACHE": "/a", "XDG_CACHE_HOME": "/x"}, "/a"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/modernbert-llama"),
        ({"XDG_CACHE_HOME": "relative"}, "/h/.cache/modernbert-llama"),
        ({}, "/h/.cache/modernbert-llama"),
    ],
    ids=str,
)
def test_cache_folder(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str) -> None:
    for name in ("MODERNBERT_LLAMA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/h")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


def test_cache_in_the_environments_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODERNBERT_LLAMA_CACHE", str(tmp_path / "not" / "yet"))
    assert converted(write_tiny(tmp_path / "in")).parent == tmp_path / "not" / "yet"


def test_a_refused_checkpoint_is_not_cached(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "in", model_type="bert")
    with pytest.raises(UnsupportedError):
        converted(folder, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_two_processes_at_once(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "in")
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        paths = pool.starmap(converted, [(folder, "f32", None, tmp_path / "cache")] * 6, chunksize=1)
    assert len(set(paths)) == 1
    assert only_files(tmp_path / "cache") == [paths[0].name]
    assert metadata(paths[0])["general.architecture"] == "modern-bert"

"""The generated checkpoints: the same bits everywhere, and the folder layouts that they claim."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from modernbert_llama.errors import InputError
from modernbert_llama.synthetic import (
    SMALL_VOCAB_SIZE,
    CheckpointSpec,
    small_tokenizer_json,
    special_ids,
    token_ids,
    write_checkpoint,
)
from safetensors import safe_open
from tokenizers import Tokenizer

SPEC = CheckpointSpec("probe", 2, 64, 96, 2, attention_bias=True, logit_gain=1.5, seed=7)


def test_weights_are_the_same_bits_on_every_machine(tmp_path: Path) -> None:
    # the golden vectors rest on this: if it fails, they fail too, and this says why
    data = (write_checkpoint(tmp_path, SPEC) / "model.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == "58faf7f64f4419adb77ffcc3d2177141afa898a81f0b5101fc6b386d277ac493"
    assert (
        hashlib.sha256(small_tokenizer_json().encode()).hexdigest()
        == "ca4b4f9001195f38edc6259fd5da32ab51fc199bc5892ae25f39d18ed083aea0"
    )
    assert token_ids(SPEC, 5) == [1013, 333, 31, 514, 1014]


def test_weights_have_the_deviation_asked_for(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, SPEC)
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        rows = file.get_tensor("layers.1.attn.Wqkv.weight").std(axis=1) * 8
        assert rows[:128].mean() == pytest.approx(1.5, rel=0.05)
        assert rows[128:].mean() == pytest.approx(1.0, rel=0.05)
        assert file.get_tensor("final_norm.weight").mean() == pytest.approx(1.0, abs=0.15)
        assert "layers.0.attn_norm.weight" not in file.keys()  # noqa: SIM118  # not a mapping


@pytest.mark.parametrize(("stored", "exact"), [("F16", 2**-11), ("BF16", 2**-8)])
def test_half_precision_is_the_same_weights_rounded(tmp_path: Path, stored: str, exact: float) -> None:
    whole = write_checkpoint(tmp_path / "f32", SPEC)
    half = write_checkpoint(tmp_path / "half", CheckpointSpec(**{**vars(SPEC), "stored": stored}))
    name = "layers.1.mlp.Wi.weight"
    with safe_open(whole / "model.safetensors", "numpy") as a:
        expected = a.get_tensor(name)
    raw = (half / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])[name]
    assert header["dtype"] == stored
    start, end = (8 + int.from_bytes(raw[:8], "little") + offset for offset in header["data_offsets"])
    words = np.frombuffer(raw[start:end], "<u2")
    values = words.view(np.float16) if stored == "F16" else (words.astype(np.uint32) << 16).view(np.float32)
    assert np.allclose(values.reshape(header["shape"]), expected, rtol=exact, atol=1e-7)


def test_shards_hold_what_one_file_holds(tmp_path: Path) -> None:
    one = write_checkpoint(tmp_path / "one", SPEC)
    three = write_checkpoint(tmp_path / "three", CheckpointSpec(**{**vars(SPEC), "shards": 3, "prefix": "model."}))
    index = json.loads((three / "model.safetensors.index.json").read_text(encoding="utf-8"))
    with safe_open(one / "model.safetensors", "numpy") as whole:
        names = list(whole.keys())
        assert sorted(index["weight_map"]) == sorted(f"model.{name}" for name in names)
        assert len(set(index["weight_map"].values())) == 3
        for name in names:
            with safe_open(three / index["weight_map"][f"model.{name}"], "numpy") as part:
                assert np.array_equal(part.get_tensor(f"model.{name}"), whole.get_tensor(name))


def test_special_tokens_are_where_they_are_said_to_be() -> None:
    tokenizer = Tokenizer.from_str(small_tokenizer_json())
    assert tokenizer.get_vocab_size() == SMALL_VOCAB_SIZE
    for name, token in special_ids("small").items():
        assert tokenizer.token_to_id(f"[{name.upper()}]") == token
    assert tokenizer.encode("a      b [MASK]").tokens == ["[CLS]", "a", " " * 6, "b", " [MASK]", "[SEP]"]


@pytest.mark.parametrize("length", [1, 2, 3, 64, 1000])
def test_token_ids_are_a_text_between_cls_and_sep(length: int) -> None:
    ids = token_ids(SPEC, length)
    special = special_ids("small")
    assert len(ids) == length
    assert ids[0] == special["cls"]
    assert length == 1 or ids[-1] == special["sep"]
    assert all(2 <= i < 986 for i in ids[1:-1])
    assert length < 3 or ids != token_ids(SPEC, length, seed=1)


def test_contradictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="length"):
        token_ids(SPEC, 0)
    for changes in ({"layer_types": ("full_attention",)}, {"layer_types": ("full_attention",) * 2, "config_format": 4}):
        with pytest.raises(InputError, match="layer_types"):
            write_checkpoint(tmp_path, CheckpointSpec(**{**vars(SPEC), **changes}))

"""``compare`` names the layer that is wrong, and only when one is."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from gguf_edit import rewrite, shift, swap_halves
from models import checkpoint, gguf
from modernbert_llama.compare import Comparison, Point, compare, plot, render
from modernbert_llama.errors import InputError, MissingExtraError
from modernbert_llama.reference import require_extra

LIVE = [pytest.mark.live, pytest.mark.filterwarnings("default")]
LONG = " ".join(f"The {i}th sentence of a text that is longer than the window." for i in range(12))


def live(test: Any) -> Any:
    for mark in LIVE:
        test = mark(test)
    return test


@live
@pytest.mark.parametrize("name", ["tiny", "biases", "silu", "irregular", "deep28"])
@pytest.mark.parametrize("arch", ["modern-bert", "modernbert"])
def test_a_sound_model_does_not_depart(name: str, arch: Any) -> None:
    result = compare(checkpoint(name), gguf(name, "f32", arch))
    assert result.agrees, render(result)
    names = [point.name for point in result.points]
    assert {"inp_embd", "inp_norm-0", "attn_norm-1", "Qcur-0", "Kcur-1", "Vcur-1", "kqv_out-0", "ffn_inp-1"} <= set(
        names
    )
    assert {"ffn_norm-0", "ffn_out-1", "l_out-0", "final_norm_out"} <= set(names)
    assert "nothing departs" in render(result)


@live
@pytest.mark.parametrize("outtype", ["f16", "bf16", "q8_0"])
def test_rounding_of_the_file_is_no_departure(outtype: Any) -> None:
    result = compare(checkpoint("every5"), gguf("every5", outtype))
    assert result.agrees, render(result)
    assert result.file_type == outtype
    assert result.output.relative > 1e-5  # the file is not f32


@live
@pytest.mark.parametrize(
    ("metadata", "tensors", "layer", "point"),
    [
        ({}, {"blk.4.ffn_up.weight": swap_halves}, 4, "ffn_out-4"),
        ({}, {"blk.3.attn_norm.weight": shift}, 3, "attn_norm-3"),
        ({}, {"blk.2.ffn_norm.weight": shift}, 2, "ffn_norm-2"),
        ({}, {"blk.5.attn_output.weight": shift}, 5, "kqv_out-5"),
        ({}, {"output_norm.weight": shift}, None, "final_norm_out"),
        ({"hidden_activation": "gelu_pytorch_tanh"}, {}, 0, "ffn_out-0"),
        ({"attention.sliding_window": 126}, {}, 1, "kqv_out-1"),
        ({"rope.freq_base_swa": 11000.0}, {}, 1, "Qcur-1"),
        # full for local attention, in the first local layer; its theta goes with it
        ({"attention.sliding_window_pattern": [False, False, True, False, True, False, True]}, {}, 1, "Qcur-1"),
        # the same at one theta: only the mask is wrong
        ("ettin", {}, 4, "kqv_out-4"),
    ],
)
@pytest.mark.parametrize("outtype", ["f32"])
def test_the_broken_layer_is_named(
    metadata: Any, tensors: Any, layer: int | None, point: str, outtype: Any, tmp_path: Path
) -> None:
    name = "every2"
    if metadata == "ettin":
        name, metadata = "ettin", {"attention.sliding_window_pattern": [False, True, True, False, False, True, False]}
    broken = rewrite(gguf(name, outtype), tmp_path / "broken.gguf", metadata=metadata, tensors=tensors)
    result = compare(checkpoint(name), broken, ["short", LONG])
    first = result.first_departure
    assert first is not None
    assert first.name == point, render(result)
    assert result.first_layer == layer
    assert not result.agrees
    assert f"at {point}" in render(result) or f"first departure: {point}" in render(result)


@live
@pytest.mark.parametrize("outtype", ["f16", "bf16"])
def test_a_swapped_gate_is_named_in_half_precision(outtype: Any, tmp_path: Path) -> None:
    broken = rewrite(gguf("every2", outtype), tmp_path / "broken.gguf", tensors={"blk.4.ffn_up.weight": swap_halves})
    result = compare(checkpoint("every2"), broken, [LONG])
    assert result.first_layer == 4
    assert result.first_departure is not None
    assert result.first_departure.name == "ffn_out-4"


@live
def test_no_texts_are_refused() -> None:
    with pytest.raises(InputError, match="no texts"):
        compare(checkpoint("tiny"), gguf("tiny"), [])


def comparison(*relative: float) -> Comparison:
    """A hand-made one of three layers."""
    points = [Point(f"l_out-{i}", i, 1.0, 1e-6, error, 2e-7, 1e-5) for i, error in enumerate(relative)]
    return Comparison(
        checkpoint="folder",
        model="file.gguf",
        file_type="f32",
        pooling="cls",
        texts=("a",),
        token_counts=(3,),
        token_mismatches=(),
        points=tuple(points),
        output=Point("output", None, 1.0, 1e-6, relative[-1], 2e-7, 1e-5),
    )


def test_verdicts() -> None:
    assert comparison(1e-7, 2e-7, 9e-6).agrees
    assert comparison(1e-7, 2e-5, 9e-6).first_layer == 1
    assert comparison(1e-7, 2e-6, float("nan")).first_layer == 2
    text = render(comparison(1e-7, 2e-5, 3e-5))
    assert "first departure: layer 1, at l_out-1 (relative error 2.0e-05)" in text
    assert text.count("<- departs") == 4  # layers 1 and 2, the output; then layer 1 alone


def test_plot_writes_an_image(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "errors.png"
    plot(comparison(0.0, 2e-5, 3e-5), file)
    assert file.read_bytes().startswith(b"\x89PNG")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("torch", "matplotlib") else find_spec(name)
    )
    with pytest.raises(
        MissingExtraError, match=r"torch( and transformers)? not installed.*pip install 'modernbert-llama\[compare\]'"
    ):
        compare(tmp_path)
    with pytest.raises(MissingExtraError, match="matplotlib"):
        plot(comparison(1e-7), tmp_path / "x.png")
    require_extra("json")

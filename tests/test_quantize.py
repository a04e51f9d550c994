"""``quantize``: every type on every kind of rows, what survives, and errors that leave nothing behind."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, LlamaFileType, quants
from gguf_edit import copy_of, finish, rewrite
from models import scratch, stock_llama
from modernbert_llama import Embedder, convert, keys, quantize
from modernbert_llama.convert import OutType
from modernbert_llama.describe import describe, render
from modernbert_llama.errors import (
    ConversionError,
    InputError,
    MissingExtraError,
    ModelFileError,
    ModelNotFoundError,
)
from modernbert_llama.quant_types import QUANT_TYPES, base_type, block_size, file_type_number
from modernbert_llama.quantize import Quantization, output_paths, parse_tensor_types
from modernbert_llama.quantize import render as table
from modernbert_llama.quantize_report import measure, read_lines, write
from modernbert_llama.steps import Dense, encode_steps
from modernbert_llama.synthetic import CheckpointSpec, token_ids, write_checkpoint
from numpy.typing import NDArray
from specs import cosine_distance
from test_cli import run

# rows of 256, which all types fit; of 192 and 96, multiples of 32 alone; of 72 and 40, of none
SPECS = {
    "256": CheckpointSpec("quant-256", 3, 256, 512, 4, pooling="mean", prompts=(("query", "q: "),), seed=80),
    "192": CheckpointSpec("quant-192", 9, 192, 96, 4, mlp_bias=True, seed=81),
    "72": CheckpointSpec("quant-72", 2, 72, 40, 3, window=8, pooling="mean", seed=82),
}
TEXTS = ["hello river", "A dog is sleeping under the table. " * 6, "1234 + 5678 = 6912", ""]
# the largest 1 - cosine to the f32 file
LIMITS = {"f32": 1e-12, "f16": 1e-6, "bf16": 1e-4, "q8_0": 1e-3, "q6": 2e-3, "q5": 8e-3, "q4": 4e-2, "iq4": 4e-2}


def source(rows: str, outtype: OutType = "f32", arch: keys.Arch = "modern-bert") -> Path:
    """A spec converted, with everything among its keys that may travel."""
    file = scratch() / f"quant-{rows}-{outtype}-{arch}.gguf"
    if not file.is_file():
        folder = scratch() / f"quant-{rows}"
        if not folder.is_dir():
            write_checkpoint(folder, SPECS[rows])
        convert(folder, file, outtype=outtype, arch=arch, show_progress=False)
    return file


def only_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def becomes(result: Quantization) -> dict[str, str]:
    return {tensor.name: tensor.after for tensor in result.tensors}


@pytest.mark.parametrize("rows", SPECS)
@pytest.mark.parametrize("name", QUANT_TYPES)
def test_every_type_on_every_kind_of_rows(tmp_path: Path, rows: str, name: str) -> None:
    file = tmp_path / "model.gguf"
    result = quantize(source(rows), file, type=name.upper())
    assert only_files(tmp_path) == ["model.gguf"]
    assert (result.type, result.size, result.source_size) == (name, file.stat().st_size, source(rows).stat().st_size)

    stored = {tensor.name: tensor.tensor_type.name.lower() for tensor in GGUFReader(file).tensors}
    assert {key: value.lower() for key, value in becomes(result).items()} == stored
    base = base_type(result.type)
    for tensor in result.tensors:
        if len(tensor.shape) == 1:
            assert (tensor.after, tensor.reason) == ("f32", "no matrix")
            continue
        n = tensor.shape[-1]
        if base in ("f32", "f16", "bf16"):
            assert tensor.after == base
        elif n % 32:
            assert (tensor.after, tensor.reason) == ("f16", f"rows of {n} values are no multiple of 32")
        elif n % block_size(base):
            assert tensor.after in ("q8_0", "q5_1", "q5_0", "q4_0", "iq4_nl")
            assert tensor.reason == f"rows of {n} values are no multiple of 256"
        elif tensor.after != base:
            assert tensor.reason.endswith(f" mixture of {name}")
        else:
            assert tensor.reason == ""

    model, reference = Embedder(file), Embedder(source(rows))
    assert model.metadata["general.file_type"] == file_type_number(result.type)
    limit = next((value for start, value in LIMITS.items() if name.startswith(start)), 0.2)
    assert max(map(cosine_distance, model.embed(TEXTS), reference.embed(TEXTS))) < limit
    assert f"file type           {name}".split() == next(
        line.split() for line in render(describe(file)).splitlines() if line.strip().startswith("file type")
    )


def test_file_types_are_llama_cpps() -> None:
    assert file_type_number("q4_K_M") == LlamaFileType.MOSTLY_Q4_K_M
    assert file_type_number("f32") == LlamaFileType.ALL_F32
    assert [base_type(name) for name in ("q4_K_M", "q6_K", "q5_0", "iq3_m", "q2_K")] == [
        "q4_K", "q6_K", "q5_0", "iq3_s", "q2_K",
    ]  # fmt: skip


def dequantised(file: Path, target: Path) -> Path:
    """The same weights in f32."""
    reader = GGUFReader(file)
    writer = GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.architecture", "general.file_type"):
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)
    writer.add_file_type(LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, quants.dequantize(np.array(tensor.data), tensor.tensor_type).astype(np.float32))
    finish(writer)
    return target


# What is lost beyond the rounding of the weights: that of the activations, to 8 bits in blocks of 32 or 256. Measured
# on the 3 layers with rows of 256: 1.0e-5 to 3.1e-5 for the quantised types; that of 192 has thrice the layers.
ACTIVATIONS = {"f32": 1e-12, "f16": 1e-6, "bf16": 1e-4}


@pytest.mark.parametrize("rows", ["256", "192"])
@pytest.mark.parametrize("name", QUANT_TYPES)
def test_equal_to_the_dequantised_weights(tmp_path: Path, rows: str, name: str) -> None:
    result = quantize(source(rows), tmp_path / "model.gguf", type=name)
    ids = [token_ids(SPECS[rows], length, length) for length in (1, 2, 9, 40, 200)]
    exact = Embedder(dequantised(result.path, tmp_path / "f32.gguf")).embed_tokens(ids)
    ours = Embedder(result.path).embed_tokens(ids)
    assert max(map(cosine_distance, ours, exact)) < ACTIVATIONS.get(name, {"256": 1e-4, "192": 3e-4}[rows])


@pytest.mark.parametrize("arch", keys.ARCHS)
def test_all_keys_survive(tmp_path: Path, arch: keys.Arch) -> None:
    rich = tmp_path / "rich.gguf"
    writer = copy_of(source("256", arch=arch), rich)
    text, arrays = encode_steps([Dense("Tanh", np.random.default_rng(0).standard_normal((8, 256)).astype(np.float32))])
    writer.add_string(keys.ST_STEPS, text)
    for name, values in arrays.items():
        writer.add_array(keys.ST_STEP_ARRAY + name, values.ravel().tolist())
    finish(writer)
    result = quantize(rich, tmp_path / "model.gguf", type="q4_K_M")
    before, after = (raw_fields(file) for file in (rich, result.path))
    for own in ("general.file_type", "general.quantization_version"):
        before.pop(own, None)
        assert after.pop(own)
    assert keys.TOKENIZER_JSON in before
    assert keys.ST_PROMPTS in before
    assert keys.ST_STEP_ARRAY + "0.weight" in before
    assert before == after
    assert Embedder(result.path).embed(TEXTS, prompt_name="query").shape == (4, 8)


def raw_fields(file: Path) -> dict[str, bytes]:
    """The bytes of each key's type and value."""
    return {
        key: b"".join(part.tobytes() for part in field.parts[2:])
        for key, field in GGUFReader(file).fields.items()
        if not key.startswith("GGUF.")
    }


@pytest.mark.parametrize("outtype", ["f16", "bf16"])
def test_half_precision_sources(tmp_path: Path, outtype: OutType) -> None:
    vectors = [
        Embedder(quantize(file, tmp_path / f"{i}.gguf", type="q6_K").path).embed(TEXTS)
        for i, file in enumerate((source("256"), source("256", outtype)))
    ]
    assert max(map(cosine_distance, *vectors)) < 1e-3


@pytest.mark.parametrize("outtype", ["f16", "bf16", "q8_0"])
@pytest.mark.parametrize("rows", ["256", "192"])
def test_the_converter_writes_the_same_weights(tmp_path: Path, rows: str, outtype: OutType) -> None:
    files = (source(rows, outtype), quantize(source(rows), tmp_path / "model.gguf", type=outtype).path)
    converted, quantised = (
        {t.name: (t.tensor_type, t.data.tobytes()) for t in GGUFReader(file).tensors} for file in files
    )
    assert converted == quantised


def test_chosen_tensors(tmp_path: Path) -> None:
    chosen = {r"blk\.0\.": "f16", r"ffn_down": "Q8_0", "token_embd": "q4_K"}
    types = becomes(quantize(source("256"), tmp_path / "model.gguf", type="q4_K_S", tensor_types=chosen))
    assert {types[f"blk.0.{part}.weight"] for part in ("attn_qkv", "attn_output", "ffn_up", "ffn_down")} == {"f16"}
    assert [types[f"blk.{i}.ffn_down.weight"] for i in (1, 2)] == ["q8_0", "q8_0"]
    assert types["token_embd.weight"] == types["blk.2.ffn_up.weight"] == "q4_K"
    # rows of 192 and 96 have no blocks of 256
    result = quantize(source("192"), tmp_path / "model.gguf", type="q4_0", tensor_types={"ffn_": "q6_K"})
    found = {tensor.name: (tensor.after, tensor.reason) for tensor in result.tensors}
    assert found["blk.4.ffn_down.weight"] == ("q8_0", "asked for")
    assert found["blk.4.attn_output.weight"] == ("q4_0", "")


def test_mixtures(tmp_path: Path) -> None:
    """The measured one raises what docs/quantization.md says; llama.cpp's is the same file as its own quantiser's."""
    types = becomes(quantize(source("256"), tmp_path / "model.gguf", type="q4_K_M"))
    raised = {name for name, kind in types.items() if kind == "q6_K"}
    parts = [f"blk.{i}.{part}.weight" for i in range(3) for part in ("attn_output", "ffn_down")]
    assert raised == {"token_embd.weight", *parts}
    assert {kind for name, kind in types.items() if name not in raised} == {"q4_K", "f32"}
    # rows that have fallen back stay there
    types = becomes(quantize(source("192"), tmp_path / "model.gguf", type="q4_K_M"))
    assert types.pop("token_embd.weight") == "q8_0"
    assert set(types.values()) == {"q5_0", "f32"}
    theirs = becomes(quantize(source("256"), tmp_path / "model.gguf", type="q4_K_M", mixture="llama.cpp"))
    assert {kind for name, kind in theirs.items() if "attn_output" in name} == {"q4_K"}
    with pytest.raises(InputError, match=r"mixture 'best' is not one of measured, llama\.cpp"):
        quantize(source("256"), tmp_path / "model.gguf", type="q4_K_M", mixture="best")  # type: ignore[arg-type]


def test_a_head_keeps_its_type(tmp_path: Path) -> None:
    headed = tmp_path / "head.gguf"
    writer = copy_of(source("256"), headed)
    writer.add_tensor("cls.weight", np.eye(256, dtype=np.float32))
    finish(writer)
    result = quantize(headed, tmp_path / "model.gguf", type="q4_K_M")
    assert {(t.after, t.reason) for t in result.tensors if t.name == "cls.weight"} == {("f32", "a head keeps its type")}


def test_the_table_groups_layers(tmp_path: Path) -> None:
    result = quantize(source("192"), tmp_path / "model.gguf", type="q4_K_M", mixture="llama.cpp")
    lines = table(result).splitlines()
    assert lines[0].split() == ["tensor", "layers", "shape", "was", "is", "why"]
    up = [" ".join(line.split()) for line in lines if line.startswith("blk.*.ffn_up.weight")]
    assert up == ["blk.*.ffn_up.weight 0-8 192 x 192 f32 q5_0 rows of 192 values are no multiple of 256"]
    assert len([line for line in lines if "ffn_down" in line]) == 2  # llama.cpp gives some layers more bits
    assert "bits a weight" in lines[-1]


def test_quantised_sources(tmp_path: Path) -> None:
    file = quantize(source("256"), tmp_path / "q8_0.gguf", type="q8_0").path
    with pytest.raises(InputError, match=r"quantised already \(tensor 'token_embd.weight' is q8_0\).*allow_requantize"):
        quantize(file, tmp_path / "model.gguf", type="q4_0")
    assert only_files(tmp_path) == ["q8_0.gguf"]
    again = quantize(file, tmp_path / "model.gguf", type="q4_0", allow_requantize=True)
    assert becomes(again)["blk.0.ffn_up.weight"] == "q4_0"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("iq2_xs", "iq2_xs needs an importance matrix.*choose iq3_s, q3_K_S or q2_K, or .*llama-quantize"),
        ("Q2_K_S", "needs an importance matrix"),
        ("tq1_0", "trained with such weights"),
        ("mxfp4_moe", "trained with such weights"),
        ("q4_K", "'q4_K' is not one of f32, .*q4_K_M"),
        ("", "is not one of"),
    ],
)
def test_types_that_cannot_be(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        quantize(source("256"), tmp_path / "model.gguf", type=name)
    assert only_files(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "tensor_types", "message"),
    [
        ("q4_0", {"nothing": "q8_0"}, "'nothing' fits no matrix"),
        ("q4_0", {"_norm": "q8_0"}, "'_norm' fits no matrix"),
        ("q4_0", {"(": "q8_0"}, "no regular expression"),
        ("q4_0", {"ffn": "iq2_xs"}, "tensor type 'iq2_xs' is not one of"),
        ("f16", {"ffn": "q8_0"}, "cannot be given with f16"),
    ],
)
def test_tensor_types_that_cannot_be(tmp_path: Path, name: str, tensor_types: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        quantize(source("256"), tmp_path / "model.gguf", type=name, tensor_types=tensor_types)
    assert only_files(tmp_path) == []


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "source.gguf"
    file.write_bytes(source("256").read_bytes())
    link = tmp_path / "link.gguf"
    link.symlink_to(file)
    for target in (file, link):
        with pytest.raises(InputError, match="is the source itself"):
            quantize(file, target, type="q8_0")
    with pytest.raises(InputError, match="is a folder"):
        quantize(file, tmp_path, type="q8_0")
    with pytest.raises(InputError, match=r"output folder .* does not exist"):
        quantize(file, tmp_path / "none" / "model.gguf", type="q8_0")
    assert only_files(tmp_path) == ["link.gguf", "source.gguf"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    target.write_text("as it was")
    program = f"""
import resource
from modernbert_llama import quantize
from modernbert_llama.errors import ConversionError
resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, 700_000))
try:
    quantize({str(source("256"))!r}, {str(target)!r}, type="q8_0")
except ConversionError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == f"cannot write {target}: the disk is full or a file-size limit is reached"
    assert only_files(tmp_path) == ["model.gguf"]
    assert target.read_text() == "as it was"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConversionError, match="cannot write"):
        quantize(source("256"), tmp_path / "model.gguf", type="q8_0")


@pytest.mark.parametrize("keep", [0, 100, 20_000, -1, -100_000])
def test_truncated_sources(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "cut.gguf"
    file.write_bytes(source("256").read_bytes()[:keep])
    with pytest.raises(ModelFileError, match=r"cut.gguf"):
        quantize(file, tmp_path / "model.gguf", type="q8_0")
    assert only_files(tmp_path) == ["cut.gguf"]


def test_damaged_sources(tmp_path: Path) -> None:
    def spoil(x: NDArray[np.float32]) -> NDArray[np.float32]:
        x.flat[5] = np.nan
        return x

    file = rewrite(source("256"), tmp_path / "nan.gguf", tensors={"blk.1.ffn_up.weight": spoil})
    with pytest.raises(ModelFileError, match=r"nan.gguf, tensor 'blk.1.ffn_up.weight': .*invalid data"):
        quantize(file, tmp_path / "model.gguf", type="q4_K_M")
    file = rewrite(source("256"), tmp_path / "big.gguf", tensors={"blk.1.ffn_up.weight": lambda x: x * 1e7})
    with pytest.raises(ModelFileError, match=r"big.gguf, tensor 'blk.1.ffn_up.weight': .*validation failed"):
        quantize(file, tmp_path / "model.gguf", type="f16")
    file = rewrite(source("256"), tmp_path / "lacks.gguf", tensors={"blk.1.ffn_up.weight": lambda _: None})
    with pytest.raises(ModelFileError, match=r"tensor 'blk.1.ffn_up.weight' is missing"):
        quantize(file, tmp_path / "model.gguf", type="q8_0")
    file = rewrite(source("256"), tmp_path / "aligned.gguf", added={"general.alignment": 64})
    with pytest.raises(ModelFileError, match=r"general.alignment is 64"):
        quantize(file, tmp_path / "model.gguf", type="q8_0")
    assert not (tmp_path / "model.gguf").exists()
    assert not list(tmp_path.glob(".*"))


def test_foreign_sources(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"none.gguf"):
        quantize(tmp_path / "none.gguf", tmp_path / "model.gguf", type="q8_0")
    text = tmp_path / "text.gguf"
    text.write_text("hello")
    with pytest.raises(ModelFileError, match="is not a GGUF file"):
        quantize(text, tmp_path / "model.gguf", type="q8_0")
    file = tmp_path / "llama.gguf"
    writer = GGUFWriter(file, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((8, 64), np.float32), raw_dtype=GGMLQuantizationType.F32)
    finish(writer)
    with pytest.raises(ModelFileError, match="'llama', expected 'modern-bert' or 'modernbert'"):
        quantize(file, tmp_path / "model.gguf", type="q8_0")


def test_interrupt(tmp_path: Path) -> None:
    program = f"""
import signal
import modernbert_llama.native  # an interrupt in the import of an extension can be lost
from modernbert_llama import quantize
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.5, 5)  # again: Python loses one that falls into a finaliser
try:
    while True:
        quantize({str(source("256"))!r}, {str(tmp_path / "model.gguf")!r}, type="q4_K_M", n_threads=1)
except KeyboardInterrupt:
    print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "stopped"
    assert only_files(tmp_path) in ([], ["model.gguf"])


def test_report(tmp_path: Path) -> None:
    files = [quantize(source("256"), tmp_path / f"{name}.gguf", type=name).path for name in ("q8_0", "q2_K")]
    report = measure(source("256"), files)
    itself, good, bad = report.files
    assert (report.n_queries, report.n_documents, report.top) == (32, 160, 10)
    assert [item.type for item in report.files] == ["f32", "q8_0", "q2_K"]
    assert (itself.cosine_mean, itself.cosine_min, itself.top_overlap, itself.kendall_tau) == (1, 1, 1, 1)
    assert 1 > good.cosine_mean > bad.cosine_mean > bad.cosine_min
    assert 1 > good.kendall_tau > bad.kendall_tau
    assert good.top_overlap > bad.top_overlap
    assert itself.size > good.size > bad.size
    assert all(item.tokens_per_second > 0 for item in report.files)

    paths = write(report, tmp_path / "out")
    assert [path.name for path in paths] == ["report.csv", "report.json", "report.png"]
    with paths[0].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["cosine_mean"]) for row in rows] == [item.cosine_mean for item in report.files]
    assert [item["type"] for item in json.loads(paths[1].read_text())["files"]] == ["f32", "q8_0", "q2_K"]
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_report_measures_what_it_says(tmp_path: Path) -> None:
    """Against the definitions, computed here in another way."""
    file = quantize(source("256"), tmp_path / "model.gguf", type="q3_K_S").path
    texts = [f"text {i} of the river and {i * i} stones" for i in range(24)]
    found = measure(source("256"), [file], texts=texts).files[1]
    queries, documents = texts[::4], [text for i, text in enumerate(texts) if i % 4]
    exact, ours = (
        [model.embed(queries, prompt_name="query"), model.embed(documents)]
        for model in (Embedder(source("256")), Embedder(file))
    )
    cosines = [float(a @ b) for x, y in zip(exact, ours, strict=True) for a, b in zip(x, y, strict=True)]
    assert found.cosine_mean == pytest.approx(np.mean(cosines), abs=1e-6)
    assert found.cosine_min == pytest.approx(min(cosines), abs=1e-6)
    overlaps, taus = [], []
    for a, b in zip(exact[0] @ exact[1].T, ours[0] @ ours[1].T, strict=True):
        top = min(10, len(documents) // 2)
        overlaps.append(len({*np.argsort(a)[-top:]} & {*np.argsort(b)[-top:]}) / top)
        pairs = [(i, j) for i in range(len(a)) for j in range(i)]
        taus.append(np.mean([np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in pairs]))
    assert found.top_overlap == pytest.approx(np.mean(overlaps), abs=0.01)
    assert found.kendall_tau == pytest.approx(np.mean(taus), abs=0.01)


def test_report_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="7 texts are too few"):
        measure(source("256"), [], texts=["x"] * 7)
    with pytest.raises(InputError, match="was not made from"):
        measure(source("256"), [source("192")])
    with pytest.raises(InputError, match="cannot be read as text"):
        read_lines(tmp_path / "none.txt")
    report = measure(source("72"), [])
    (tmp_path / "file").write_text("")
    with pytest.raises(ConversionError, match="cannot write the report"):
        write(report, tmp_path / "file" / "below")
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(MissingExtraError, match=r"scipy not installed.*modernbert-llama\[report\]"):
        measure(source("72"), [])


def test_command_line(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"text {i} of the river\n\n" for i in range(8)))
    output, _ = run(
        "quantize", source("256"), tmp_path / "m-{type}.gguf", "--type", "q8_0,Q4_K_M", "--tensor-type",
        "ffn_down=q6_K", "--report", tmp_path / "report", "--texts", texts,
    )  # fmt: skip
    assert only_files(tmp_path) == ["m-q4_K_M.gguf", "m-q8_0.gguf", "report", "texts.txt"]
    assert "2 queries, 6 documents" in output
    assert "asked for" in output
    listing, _ = run("inspect", tmp_path / "m-q4_K_M.gguf", "--tensors")
    assert ["blk.0.ffn_down.weight", "q6_K", "256", "x", "512"] in [line.split() for line in listing.splitlines()]
    for arguments, message in (
        (["q8_0,q4_0"], "put {type} into the name"),
        (["iq1_s"], "importance matrix"),
        (["q4_0", "--tensor-type", "ffn"], "not of the form REGEX=TYPE"),
    ):
        _, error = run("quantize", source("256"), tmp_path / "x.gguf", "--type", *arguments, code=1)
        assert message in error
        assert "Traceback" not in error


def test_paths_and_patterns_of_the_command_line() -> None:
    assert output_paths("a.gguf", "Q8_0") == {"q8_0": Path("a.gguf")}
    assert output_paths("a-{type}.gguf", "q8_0, q4_k_m")["q4_K_M"] == Path("a-q4_K_M.gguf")
    with pytest.raises(InputError, match="twice"):
        output_paths("a-{type}.gguf", "q8_0,Q8_0")
    assert parse_tensor_types(["a=b=q8_0"]) == {"a=b": "q8_0"}


STOCK_EMBED = """
import json, llama_cpp
llama = llama_cpp.Llama({path!r}, embedding=True, n_ctx=512, n_batch=512, n_ubatch=512, verbose=False)
print(json.dumps([llama.embed(text, normalize=False) for text in {texts!r}]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in QUANT_TYPES if name != "f32"])
def test_stock_gives_the_same(tmp_path: Path, name: str) -> None:
    # stock loads no biases, which the other source has
    file = quantize(source("256"), tmp_path / "model.gguf", type=name).path
    path = os.pathsep.join([str(stock_llama()), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    program = STOCK_EMBED.format(path=str(file), texts=TEXTS[:3])
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        check=True, timeout=600,
    )  # fmt: skip
    theirs = np.array(json.loads(done.stdout)).reshape(3, -1)
    # stock's GELU is the tanh form, its keys and values are half precision, and both round activations to 8 bits
    assert max(map(cosine_distance, theirs, Embedder(file).embed(TEXTS[:3], normalize=False))) < 1e-3

"""OpenVINO: the exported model in float32 and bfloat16, and calibrated to int8 by NNCF."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import openvino

from benchmarks.programs.base import PaddedProgram, padding_tokenizer
from benchmarks.programs.versions import GRAPH_VERSION
from benchmarks.workloads import TASKS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.programs import ProgramSpec
    from benchmarks.shapes import Files

__all__ = ["PROGRAMS"]


class OpenVino(PaddedProgram):
    """int8 computes what it leaves unquantised in bfloat16, as OpenVINO does by itself where the processor can."""

    def __init__(self, spec: ProgramSpec, files: Files, n_threads: int) -> None:
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32" if spec.type == "f32" else "bf16",
            "INFERENCE_NUM_THREADS": n_threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled = openvino.Core().compile_model(_folder(spec, files) / "model.xml", "CPU", properties)
        self._request = self._compiled.create_infer_request()
        self._tokenizer = padding_tokenizer(files)
        self._task = files.task

    @classmethod
    def prepare(cls, spec: ProgramSpec, files: Files) -> None:
        _folder(spec, files)

    def forward(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        outputs = self._request.infer({"input_ids": ids, "attention_mask": mask}, share_inputs=True)
        return np.array(outputs[0], np.float32)

    def embed_texts(self, texts: Sequence[str], at_once: int) -> NDArray[np.float32]:
        return self.embed_padded(self._tokenizer, texts, at_once, self._task)

    def rest(self) -> None:
        del self._request
        self._compiled.release_memory()
        self._request = self._compiled.create_infer_request()


def _folder(spec: ProgramSpec, files: Files) -> Path:
    plain = f"openvino-{version('openvino')}-transformers-{version('transformers')}-graph-{GRAPH_VERSION}"
    if spec.type != "int8":
        return files.make(plain, lambda path: _export(files, path))
    return files.make(f"{plain}-nncf-{version('nncf')}", lambda path: _quantize(files, files.folder / plain, path))


def _export(files: Files, path: Path) -> None:
    import torch

    from benchmarks.programs.exported import example, make_graph

    ids, mask = example(files)
    shape = [-1, -1]
    with torch.no_grad():
        model = openvino.convert_model(
            make_graph(files),
            example_input={"input_ids": ids, "attention_mask": mask},
            input=[("input_ids", shape, openvino.Type.i64), ("attention_mask", shape, openvino.Type.i64)],
        )
    path.mkdir()
    openvino.save_model(model, path / "model.xml", compress_to_fp16=False)


def _quantize(files: Files, plain: Path, path: Path) -> None:
    import nncf

    from benchmarks.programs.exported import calibration_rows

    source = files.make(plain.name, lambda target: _export(files, target))
    rows = list(calibration_rows(files))
    model = nncf.quantize(
        openvino.Core().read_model(source / "model.xml"),
        nncf.Dataset(rows),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(rows),
    )
    path.mkdir()
    openvino.save_model(model, path / "model.xml", compress_to_fp16=False)


PROGRAMS: Final = dict.fromkeys(TASKS, OpenVino)  # only the graph differs, and the padding

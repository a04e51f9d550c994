"""ONNX Runtime: the exported model in float32, and with its dynamic int8 quantisation."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import numpy as np
import onnxruntime

from benchmarks.programs.base import PaddedProgram, padding_tokenizer
from benchmarks.programs.versions import GRAPH_VERSION
from benchmarks.workloads import TASKS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.programs import ProgramSpec
    from benchmarks.shapes import Files

__all__ = ["PROGRAMS"]

_LONG = 4096  # tokens of a call after which the arena shrinks


class OnnxRuntime(PaddedProgram):
    """All graph optimisations, one process-wide pool of threads."""

    def __init__(self, spec: ProgramSpec, files: Files, n_threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # a worker that waits for its turn must not spin while another is measured
        options.add_session_config_entry("session.force_spinning_stop", "1")
        file = _folder(spec, files) / "model.onnx"
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._tokenizer = padding_tokenizer(files)
        self._task = files.task
        self._shrink = onnxruntime.RunOptions()
        self._shrink.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    @classmethod
    def prepare(cls, spec: ProgramSpec, files: Files) -> None:
        _folder(spec, files)

    def forward(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        options = self._shrink if ids.size > _LONG else None
        outputs = self._session.run(None, {"input_ids": ids, "attention_mask": mask}, options)
        return np.asarray(outputs[0], np.float32)

    def embed_texts(self, texts: Sequence[str], at_once: int) -> NDArray[np.float32]:
        return self.embed_padded(self._tokenizer, texts, at_once, self._task)


def _folder(spec: ProgramSpec, files: Files) -> Path:
    exporter = f"onnxscript-{version('onnxscript')}-transformers-{version('transformers')}"
    name = f"onnx-{version('onnx')}-{exporter}-graph-{GRAPH_VERSION}"
    plain = files.make(name, lambda path: _export(files, path))
    if spec.type == "f32":
        return plain
    return files.make(f"{name}-int8-{version('onnxruntime')}", lambda path: _quantize(plain, path))


def _export(files: Files, path: Path) -> None:
    import torch

    from benchmarks.programs.exported import example, make_graph

    rows, length = torch.export.Dim("rows", min=1, max=4096), torch.export.Dim("length", min=2, max=8192)
    path.mkdir()
    with torch.no_grad():
        torch.onnx.export(
            make_graph(files),
            example(files),
            path / "model.onnx",
            input_names=["input_ids", "attention_mask"],
            output_names=["vectors"],
            dynamo=True,
            dynamic_shapes=({0: rows, 1: length}, {0: rows, 1: length}),
            external_data=False,
        )


def _quantize(plain: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path.mkdir()
    quantize_dynamic(plain / "model.onnx", path / "model.onnx", weight_type=QuantType.QInt8)


PROGRAMS: Final = dict.fromkeys(TASKS, OnnxRuntime)  # only the graph differs, and the padding

"""The programs, by name."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Final, Literal

from benchmarks.programs.base import Program
from benchmarks.workloads import Task

__all__ = ["PROGRAMS", "REFERENCE", "ProgramSpec", "load_class", "missing_packages"]

Precision = Literal["f32", "bf16", "int8"]


@dataclass(frozen=True)
class ProgramSpec:
    """``family`` is the module beside this one that has the program, ``type`` what it calls its precision.

    ``label`` stands for the family in the name, and ``build`` is a folder with another ``modernbert_llama`` package:
    so that several builds of our own can be compared in one run.
    """

    family: str
    type: str
    label: str = ""
    build: str = ""

    @property
    def name(self) -> str:
        """How the program is called in tables."""
        return f"{self.label or self.family}-{self.type}"

    def does(self, task: Task) -> bool:
        """Whether the program can do ``task``."""
        return task == "embed" or self.family != "stock"

    @property
    def has_files(self) -> bool:
        """Whether it reads more than the checkpoint."""
        return self.family != "transformers"

    @property
    def precision(self) -> Precision:
        """What it is compared within, and the peak that is its ceiling."""
        return "f32" if self.type == "f32" else "bf16" if self.type == "bf16" else "int8"


_PACKAGES: Final = {
    "ours": ("modernbert_llama",),
    "openvino": ("openvino", "nncf", "torch", "transformers"),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript", "torch", "transformers"),
    "transformers": ("torch", "transformers", "sentence_transformers"),
    "stock": (),  # installed by the benchmark itself, beside the environment
}

PROGRAMS: Final = tuple(
    ProgramSpec(family, kind)
    for family, kinds in (
        ("ours", ("f32", "bf16", "q8_0", "int8")),
        ("openvino", ("f32", "bf16", "int8")),
        ("onnxruntime", ("f32", "int8")),
        ("transformers", ("f32", "bf16")),
        ("stock", ("f32", "bf16", "q8_0")),
    )
    for kind in kinds
)
REFERENCE: Final = ProgramSpec("transformers", "f32")  # the outputs of all are compared with its


def missing_packages(spec: ProgramSpec) -> list[str]:
    """The packages that the program needs and the environment lacks."""
    return [name for name in _PACKAGES[spec.family] if importlib.util.find_spec(name) is None]


def load_class(spec: ProgramSpec, task: Task) -> type[Program]:
    """The program's class for ``task``; imports what it needs."""
    module = importlib.import_module(f"benchmarks.programs.{spec.family}")
    found: type[Program] = module.PROGRAMS[task]
    return found

"""The exceptions of modernbert-llama: one base class, each error also the fitting builtin."""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConversionError",
    "InputError",
    "LlamaCppError",
    "MissingExtraError",
    "ModelFileError",
    "ModelNotFoundError",
    "ModernBertLlamaError",
    "OutOfMemoryError",
    "PatchSetError",
    "TooLongError",
    "TruncationWarning",
    "UnsupportedError",
]


class ModernBertLlamaError(Exception):
    """Base class: ``except ModernBertLlamaError`` catches everything that the package raises on purpose."""


class InputError(ModernBertLlamaError, ValueError):
    """A text, an argument or an option that cannot be used; the message names its index."""


class TooLongError(InputError):
    """A text of more tokens than the limit, with ``truncate=False``."""


class TruncationWarning(UserWarning):
    """A text was cut to the maximum length; raised once a model, then only counted."""


class ModelNotFoundError(ModernBertLlamaError, FileNotFoundError):
    """No such file, folder or hub id, or one that may not be read."""


class ModelFileError(ModernBertLlamaError, ValueError):
    """A GGUF file that is damaged, foreign, incomplete or misshapen."""


class CheckpointError(ModernBertLlamaError, ValueError):
    """A Hugging Face checkpoint that is damaged, incomplete or contradicts itself."""


class UnsupportedError(CheckpointError, NotImplementedError):
    """A checkpoint that is sound but holds a part the converter does not know; the message names the part."""


class ConversionError(ModernBertLlamaError, OSError):
    """The converted file cannot be written: a full disk, a read-only folder, a file-size limit."""


class OutOfMemoryError(ModernBertLlamaError, MemoryError):
    """The model or its buffers do not fit into memory."""


class PatchSetError(ModernBertLlamaError, RuntimeError):
    """A patch series, a pin or an upstream source that fails a check."""


class MissingExtraError(ModernBertLlamaError, ImportError):
    """A library of an extra is not installed; the message names both."""


class LlamaCppError(ModernBertLlamaError, ImportError):
    """llama-cpp-python cannot run on the patched libraries; the message says why and what to do."""

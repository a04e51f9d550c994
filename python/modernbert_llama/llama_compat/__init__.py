"""llama-cpp-python, with ModernBERT: its own package on the patched libraries, or its embedding half on our engine.

>>> import modernbert_llama
>>> modernbert_llama.use_with_llama_cpp()  # doctest: +SKIP
>>> import llama_cpp  # now on the patched libraries  # doctest: +SKIP

`Llama` needs no llama-cpp-python. ``python -m modernbert_llama.llama_compat`` prints the environment for a program
whose source is not to be touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modernbert_llama.llama_compat.constants import *  # noqa: F403
from modernbert_llama.llama_compat.libraries import use_with_llama_cpp

if TYPE_CHECKING:
    from modernbert_llama.llama_compat.llama import Llama
else:

    def __getattr__(name: str) -> object:
        # the libraries do not need the engine
        if name == "Llama":
            from modernbert_llama.llama_compat.llama import Llama

            return Llama
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Llama", "use_with_llama_cpp"]

"""``python -m modernbert_llama.llama_compat``: the environment in which llama-cpp-python is a patched one."""

from __future__ import annotations

import argparse
import re
import sys

from modernbert_llama.errors import LlamaCppError
from modernbert_llama.llama_compat.libraries import check_environment, environment


def main(arguments: list[str] | None = None) -> int:
    """Print the assignments, one a line; with ``--check``, say whether the current environment has them."""
    parser = argparse.ArgumentParser(
        prog="python -m modernbert_llama.llama_compat",
        description="Print the variables that make llama-cpp-python load the patched libraries, for "
        "`export $(python -m modernbert_llama.llama_compat)` or `env $(...) program`.",
    )
    parser.add_argument("--check", action="store_true", help="check the environment as it is, and the libraries")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            build = check_environment()
            print(f"ok: llama-cpp-python {build.llama_cpp_python} loads {build.libraries[0]} ({build.tag})")
            return 0
        lines = [f"{name}={value}" for name, value in environment().items()]
    except LlamaCppError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    if any(re.search(r"\s", line) for line in lines):
        print("note: the path holds a space; set the variables with quotes around it", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

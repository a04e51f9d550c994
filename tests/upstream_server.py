"""One library behind a pipe: rows of token ids in, seconds and vectors out, a line of JSON each.

``python upstream_server.py LIBRARY MODEL.gguf`` is started by upstream_table.py with the packages of an upstream first
on the path. The first line out is whether the model is loaded; what the library prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

LIMIT, N_PARALLEL, N_THREADS = 2048, 16, 2
Rows = list[list[int]]
Encode = Callable[[Rows], Any]


def embedder(path: str) -> Encode:
    """Our own API."""
    from modernbert_llama import Embedder

    model = Embedder(path, n_threads=N_THREADS)
    return lambda rows: model.embed_tokens(rows, normalize=False).tolist()


def llama_cpp(path: str) -> Encode:
    """`llama_cpp.Llama`, on the libraries that its variables name or on its own."""
    import llama_cpp
    from llama_cpp.llama_tokenizer import BaseLlamaTokenizer

    class Ids(BaseLlamaTokenizer):  # type: ignore[misc]
        def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:  # noqa: ARG002
            return [int(token) for token in text.split()]

        def detokenize(self, tokens: object, prev_tokens: object = None, special: bool = False) -> bytes:  # noqa: ARG002
            return b""

    model = llama_cpp.Llama(
        path, embedding=True, n_ctx=LIMIT, n_batch=LIMIT, n_ubatch=LIMIT, n_threads=N_THREADS,
        n_threads_batch=N_THREADS, tokenizer=Ids(),
    )  # fmt: skip

    def encode(rows: Rows) -> Any:
        texts = [" ".join(map(str, row)) for row in rows]
        if llama_cpp.__version__ == "0.3.16":  # which cannot decode several texts in a batch, with any BERT
            return [model.embed(text) for text in texts]
        return model.embed(texts)

    return encode


def xllamacpp(path: str) -> Encode:
    """xllamacpp's server, in the process."""
    import xllamacpp as xlc

    params = xlc.CommonParams()
    params.model.path = path
    params.embedding = True
    params.embd_normalize = -1
    params.n_ctx = LIMIT * N_PARALLEL
    params.n_batch = params.n_ubatch = LIMIT
    params.n_parallel = N_PARALLEL
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = N_THREADS
    server = xlc.Server(params)

    def encode(rows: Rows) -> Any:
        answer = server.handle_embeddings({"input": rows, "encoding_format": "float"})
        return [item["embedding"] for item in sorted(answer["data"], key=lambda item: item["index"])]

    return encode


LIBRARIES = {"embedder": embedder, "llama_cpp": llama_cpp, "xllamacpp": xllamacpp}


def main() -> None:
    library, path = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        encode = LIBRARIES[library](path)
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"), file=answers, flush=True)
        return
    print(json.dumps(None), file=answers, flush=True)
    for line in sys.stdin:
        rows = json.loads(line)
        start = time.perf_counter()
        vectors = encode(rows)
        print(json.dumps([time.perf_counter() - start, vectors]), file=answers, flush=True)


if __name__ == "__main__":
    main()

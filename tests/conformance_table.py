"""Print the table of docs/models.md: the largest error over all texts and prompts of every row of family.py.
``make conformance-table``.
"""

from __future__ import annotations

import warnings

import sequence_heads
from family import MODELS, PIPELINES, Row, encodings, golden
from late import LATE_ROWS, LateRow
from modernbert_llama.errors import TruncationWarning
from test_conformance import measure
from test_multi_vector import errors as late_errors
from test_sequence_heads import folder as head_folder
from test_sequence_heads import measure as measure_head


def cells(row: Row) -> list[str]:
    found = golden(row)
    ours = {outtype: measure(row, outtype)[0] for outtype in ("f32", "bf16", "q8_0")}
    theirs = {
        precision: max(found[f"{name}-{precision}"].max() for name, _ in encodings(row))
        for precision in ("float32", "bfloat16")
    }
    order = (ours["f32"], theirs["float32"], ours["bf16"], theirs["bfloat16"], ours["q8_0"])
    return [row.name, row.tokenizer, *(f"{value:.1e}" for value in order)]


def head_cells(row: sequence_heads.HeadRow) -> list[str]:
    ours = {
        outtype: measure_head(row, outtype, head_folder(row.name), golden(row)) for outtype in ("f32", "bf16", "q8_0")
    }
    order = (
        ours["f32"]["scores"],
        ours["f32"]["logits"],
        ours["f32"]["theirs"],
        ours["bf16"]["logits"],
        ours["bf16"]["theirs"],
        ours["q8_0"]["logits"],
    )
    return [row.name, row.tokenizer, *(f"{value:.1e}" for value in order)]


def late_cells(row: LateRow) -> list[str]:
    ours = {outtype: late_errors(row.name, outtype) for outtype in ("f32", "bf16", "q8_0")}
    found = golden(row.encoder)
    theirs = {
        precision: max(float(found[f"{kind}-{precision}"]) for kind in ("queries", "documents"))
        for precision in ("float32", "bfloat16")
    }
    order = (ours["f32"][1], ours["f32"][0], theirs["float32"], ours["bf16"][0], theirs["bfloat16"], ours["q8_0"][0])
    return [row.name, row.maker, *(f"{value:.1e}" for value in order)]


def main() -> None:
    warnings.simplefilter("ignore", TruncationWarning)
    for rows in (MODELS, PIPELINES):
        print("| form of | tokenizer | e, f32 | e, theirs f32 | 1-cos, bf16 | 1-cos, theirs bf16 | 1-cos, q8_0 |")
        print("|---|---|---|---|---|---|---|")
        for row in rows:
            print("| " + " | ".join(cells(row)) + " |", flush=True)
        print()
    for heads in (sequence_heads.MODELS, sequence_heads.FORMS):
        print("| form of | tokenizer | scores, f32 | e, f32 | e, theirs f32 | e, bf16 | e, theirs bf16 | e, q8_0 |")
        print("|---|---|---|---|---|---|---|---|")
        for head in heads:
            print("| " + " | ".join(head_cells(head)) + " |", flush=True)
        print()
    print("| form of | made by | scores, f32 | e, f32 | e, theirs f32 | e, bf16 | e, theirs bf16 | e, q8_0 |")
    print("|---|---|---|---|---|---|---|---|")
    for late in LATE_ROWS.values():
        print("| " + " | ".join(late_cells(late)) + " |", flush=True)


if __name__ == "__main__":
    main()

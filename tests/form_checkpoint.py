"""A checkpoint of a few layers with the tokenizer of a form."""

from __future__ import annotations

from pathlib import Path

from tiny_checkpoint import CONFIG_4, CONFIG_5, edit_json, write_tiny
from tokenizer_forms import save_form


def form_checkpoint(folder: Path, name: str, *, generation: int = 5) -> Path:
    """Writes a tiny encoder and the tokenizer files of ``FORMS[name]``; four rows of the embedding have no token."""
    size = save_form(name, folder / "tokenizer", generation=generation) + 4
    write_tiny(folder, CONFIG_4 if generation == 4 else CONFIG_5, vocab_size=size)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    for path in (folder / "tokenizer").iterdir():
        path.rename(folder / path.name)
    (folder / "tokenizer").rmdir()
    edit_json(folder / "tokenizer_config.json", model_max_length=256)
    return folder

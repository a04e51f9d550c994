"""The command line ``modernbert-llama``: one function a verb, each a thin layer over the module that does the work."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from modernbert_llama.errors import ModernBertLlamaError

__all__ = ["main"]

app = typer.Typer(
    name="modernbert-llama",
    help="ModernBERT embeddings through a patched llama.cpp, equal to Hugging Face's.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

OutType = Literal["f32", "f16", "bf16", "q8_0"]


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the log, llama.cpp's own included.")] = False,
) -> None:
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, format="%(message)s")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="A local Hugging Face folder or a hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The GGUF file to write.")],
    outtype: Annotated[OutType, typer.Option(help="Type of the weight matrices.")] = "f32",
    arch: Annotated[
        Literal["modern-bert", "modernbert"], typer.Option(help="GGUF flavour; stock llama.cpp reads modern-bert.")
    ] = "modern-bert",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
) -> None:
    """Convert a Hugging Face checkpoint to GGUF."""
    from modernbert_llama.convert import convert as run

    path = run(source, output, outtype=outtype, arch=arch, revision=revision)
    typer.echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


@app.command()
def embed(
    model: Annotated[str, typer.Argument(help="A GGUF file, a local Hugging Face folder or a hub id.")],
    text: Annotated[list[str] | None, typer.Argument(help="Texts to embed.")] = None,
    input_: Annotated[
        str | None,
        typer.Option(
            "--input",
            "-i",
            help="A .txt (a text a line) or .jsonl file (strings or objects with 'text'); - reads lines.",
        ),
    ] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="A .npy or .jsonl file; - prints JSON lines.")] = "-",
    prompt_name: Annotated[str | None, typer.Option(help="The model's prompt to put before each text.")] = None,
    prompt: Annotated[str | None, typer.Option(help="A prompt of your own.")] = None,
    dimensions: Annotated[int | None, typer.Option(help="Keep the first so many values of each vector.")] = None,
    normalize: Annotated[
        bool | None, typer.Option("--normalize/--no-normalize", help="Scale to length 1 (default: as the model says).")
    ] = None,
    truncate: Annotated[bool, typer.Option("--truncate/--no-truncate", help="Cut texts over the limit.")] = True,
    max_length: Annotated[int | None, typer.Option(help="A limit in tokens below the model's own.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads (default: the physical cores that may be used).")] = None,
    per_channel: Annotated[
        bool, typer.Option("--per-channel", help="q8_0 products with a scale a row and a token: faster, less exact.")
    ] = False,
) -> None:
    """Embed texts."""
    from modernbert_llama.embed_files import embed_to, read_texts
    from modernbert_llama.embedder import Embedder

    texts = read_texts(text or [], input_)
    embedder = Embedder(model, n_threads=threads, per_channel=per_channel)
    embed_to(
        output,
        embedder,
        texts,
        normalize=normalize,
        prompt_name=prompt_name,
        prompt=prompt,
        dimensions=dimensions,
        truncate=truncate,
        max_length=max_length,
    )


@app.command()
def inspect(model: Annotated[Path, typer.Argument(help="A GGUF file.")]) -> None:
    """Show what a GGUF file holds."""
    from modernbert_llama.describe import describe, render

    typer.echo(render(describe(model)))


@app.command()
def compare(
    checkpoint: Annotated[str, typer.Argument(help="A local Hugging Face folder or a hub id.")],
    model: Annotated[Path | None, typer.Option(help="A GGUF file (default: convert the checkpoint to f32).")] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text to compare on; may be given again.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the error of each layer to this PNG.")] = None,
) -> None:
    """Compare with transformers in float64, layer by layer; exit 1 where they depart."""
    from modernbert_llama.compare import compare as run
    from modernbert_llama.compare import plot as draw
    from modernbert_llama.compare import render

    comparison = run(checkpoint, model=model, texts=text)
    typer.echo(render(comparison))
    if plot is not None:
        draw(comparison, plot)
    if not comparison.agrees:
        raise typer.Exit(1)


@app.command()
def demo(
    folder: Annotated[Path | None, typer.Option(help="Keep the checkpoint and the GGUF file here.")] = None,
) -> None:
    """Make a small checkpoint, convert it, embed with it and check the vectors against transformers'."""
    from modernbert_llama.demo import run

    raise typer.Exit(run(sys.stdout, folder))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def patches(context: typer.Context) -> None:
    """List, apply, check, refresh or export the patches over llama.cpp (in a checkout)."""
    from modernbert_llama.patchset import main as run

    raise typer.Exit(run(context.args))


def main() -> None:
    """Entry point: the package's own errors become one line on standard error and exit code 1."""
    try:
        app()
    except ModernBertLlamaError as error:
        typer.echo(f"modernbert-llama: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

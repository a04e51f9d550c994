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
    help="ModernBERT models through a patched llama.cpp, equal to Hugging Face's.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

OutType = Literal["f32", "f16", "bf16", "q8_0"]

_MODEL = "A GGUF file, a local Hugging Face folder or a hub id."
_INPUT = "A .txt (a text a line) or .jsonl file (strings or objects with 'text'); - reads lines."
_OUTPUT = "A .jsonl file; - prints."
_MANY = 256  # texts that deserve a progress bar

# what every command on a model takes
Input = Annotated[str | None, typer.Option("--input", "-i", help=_INPUT)]
Output = Annotated[str, typer.Option("--output", "-o", help=_OUTPUT)]
Truncate = Annotated[bool, typer.Option("--truncate/--no-truncate", help="Cut what is over the limit.")]
MaxLength = Annotated[int | None, typer.Option(help="A limit in tokens below the model's own.")]
Threads = Annotated[int | None, typer.Option(help="Threads (default: the physical cores that may be used).")]
PerChannel = Annotated[
    bool, typer.Option("--per-channel", help="q8_0 products with a scale a row and a token: faster, less exact.")
]


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
def quantize(
    source: Annotated[Path, typer.Argument(help="A GGUF file in f32, f16 or bf16.")],
    output: Annotated[str, typer.Argument(help="The GGUF file to write; {type} in it is the type's name.")],
    type_: Annotated[
        str,
        typer.Option("--type", "-t", help="q8_0, q6_K, q4_K_M ... as llama.cpp names them; several: a,b,c."),
    ],
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(help="REGEX=TYPE: a type for the matrices of such names; may be given again, the first fits."),
    ] = None,
    mixture: Annotated[
        Literal["measured", "llama.cpp"], typer.Option(help="Which tensors of q5_K_M and q4_K_M get more bits.")
    ] = "measured",
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="Take a source that is quantised already, at a loss.")
    ] = False,
    threads: Threads = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Compare with the source: print a table, write CSV, JSON and PNG to this folder."),
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Texts of the report, one a line: the first of every four is a query.")
    ] = None,
) -> None:
    """Write a GGUF file in another type, through llama.cpp's own quantiser, and say what each tensor became."""
    from modernbert_llama.quantize import output_paths, parse_tensor_types, render
    from modernbert_llama.quantize import quantize as run

    outputs = output_paths(output, type_)
    tensor_types = parse_tensor_types(tensor_type or [])
    lines = None
    if texts is not None:
        from modernbert_llama.quantize_report import read_lines

        lines = read_lines(texts)
    for name, path in outputs.items():
        result = run(
            source,
            path,
            type=name,
            tensor_types=tensor_types,
            mixture=mixture,
            allow_requantize=allow_requantize,
            n_threads=threads,
        )
        typer.echo(render(result) + "\n")
    if report is not None:
        from modernbert_llama.quantize_report import measure, write
        from modernbert_llama.quantize_report import render as table

        measured = measure(source, list(outputs.values()), texts=lines, n_threads=threads)
        typer.echo(table(measured))
        for path in write(measured, report):
            typer.echo(path)


@app.command()
def embed(
    model: Annotated[str, typer.Argument(help=_MODEL)],
    text: Annotated[list[str] | None, typer.Argument(help="Texts to embed.")] = None,
    input_: Input = None,
    output: Annotated[str, typer.Option("--output", "-o", help="A .npy or .jsonl file; - prints JSON lines.")] = "-",
    prompt_name: Annotated[str | None, typer.Option(help="The model's prompt to put before each text.")] = None,
    prompt: Annotated[str | None, typer.Option(help="A prompt of your own.")] = None,
    dimensions: Annotated[int | None, typer.Option(help="Keep the first so many values of each vector.")] = None,
    normalize: Annotated[
        bool | None, typer.Option("--normalize/--no-normalize", help="Scale to length 1 (default: as the model says).")
    ] = None,
    truncate: Truncate = True,
    max_length: MaxLength = None,
    precision: Annotated[
        Literal["float32", "int8", "uint8", "binary", "ubinary"],
        typer.Option(help="One byte a value, or one bit, in place of a float."),
    ] = "float32",
    threads: Threads = None,
    per_channel: PerChannel = False,
) -> None:
    """Embed texts."""
    from modernbert_llama.embed_files import embed_to
    from modernbert_llama.embedder import Embedder
    from modernbert_llama.text_files import read_texts

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
        precision=precision,
    )


@app.command()
def rerank(
    model: Annotated[str, typer.Argument(help=_MODEL)],
    query: Annotated[str, typer.Argument(help="The query.")],
    document: Annotated[list[str] | None, typer.Argument(help="Documents to rank.")] = None,
    input_: Input = None,
    output: Output = "-",
    top_k: Annotated[int | None, typer.Option(help="Only the best so many.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Logits, without the model's activation.")] = False,
    prompt_name: Annotated[str | None, typer.Option(help="The model's prompt to put before the query.")] = None,
    prompt: Annotated[str | None, typer.Option(help="A prompt of your own.")] = None,
    truncate: Truncate = True,
    max_length: MaxLength = None,
    threads: Threads = None,
    per_channel: PerChannel = False,
) -> None:
    """Rank documents by how well they answer a query: JSON Lines of corpus_id, score and text, best first."""
    from modernbert_llama.reranker import Reranker
    from modernbert_llama.text_files import read_texts, write_json_lines

    documents = read_texts(document or [], input_)
    results = Reranker(model, n_threads=threads, per_channel=per_channel).rank(
        query,
        documents,
        top_k=top_k,
        return_documents=True,
        raw=raw,
        prompt_name=prompt_name,
        prompt=prompt,
        truncate=truncate,
        max_length=max_length,
        show_progress=len(documents) > _MANY,
    )
    write_json_lines(output, ({**result} for result in results))


@app.command()
def classify(
    model: Annotated[str, typer.Argument(help=_MODEL)],
    text: Annotated[list[str] | None, typer.Argument(help="Texts to classify.")] = None,
    input_: Annotated[
        str | None,
        typer.Option("--input", "-i", help=_INPUT + " Objects may have a 'text_pair' as well."),
    ] = None,
    output: Output = "-",
    top_k: Annotated[int | None, typer.Option(help="The best so many labels (default: all).")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Logits, without softmax or sigmoid.")] = False,
    truncate: Truncate = True,
    max_length: MaxLength = None,
    threads: Threads = None,
    per_channel: PerChannel = False,
) -> None:
    """Classify texts or pairs of texts: JSON Lines of text and labels with scores, best first."""
    from modernbert_llama.classifier import Classifier
    from modernbert_llama.text_files import read_texts_or_pairs, write_json_lines

    items = read_texts_or_pairs(text or [], input_)
    results = Classifier(model, n_threads=threads, per_channel=per_channel).classify(
        items, top_k=top_k, raw=raw, truncate=truncate, max_length=max_length, show_progress=len(items) > _MANY
    )
    named = ({"text": item} if isinstance(item, str) else {"text": item[0], "text_pair": item[1]} for item in items)
    lines = zip(named, results, strict=True)
    write_json_lines(output, ({**texts, "labels": labels} for texts, labels in lines))


@app.command()
def fill(
    model: Annotated[str, typer.Argument(help=_MODEL)],
    text: Annotated[list[str] | None, typer.Argument(help="Texts, each with one [MASK] or several.")] = None,
    input_: Input = None,
    output: Output = "-",
    top_k: Annotated[int, typer.Option(help="How many tokens for each mask.")] = 5,
    target: Annotated[list[str] | None, typer.Option(help="Only this token; may be given again.")] = None,
    truncate: Truncate = True,
    max_length: MaxLength = None,
    threads: Threads = None,
    per_channel: PerChannel = False,
) -> None:
    """Fill masks: JSON Lines of text and, for each mask, tokens with their probabilities, best first."""
    from modernbert_llama.masked_lm import MaskedLM
    from modernbert_llama.text_files import read_texts, write_json_lines

    texts = read_texts(text or [], input_)
    results = MaskedLM(model, n_threads=threads, per_channel=per_channel).fill(
        texts,
        top_k=top_k,
        targets=target or None,
        truncate=truncate,
        max_length=max_length,
        show_progress=len(texts) > _MANY,
    )
    write_json_lines(output, ({"text": line, "fills": fills} for line, fills in zip(texts, results, strict=True)))


@app.command()
def tag(
    model: Annotated[str, typer.Argument(help=_MODEL)],
    text: Annotated[list[str] | None, typer.Argument(help="Texts to tag.")] = None,
    input_: Input = None,
    output: Output = "-",
    aggregation: Annotated[
        Literal["none", "simple", "first", "average", "max"],
        typer.Option(help="How tokens are joined to spans, as in transformers' pipeline."),
    ] = "simple",
    ignore_label: Annotated[
        list[str] | None, typer.Option(help="A label to leave out (default: O); may be given again.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Read texts over the limit in windows that share so many tokens.")
    ] = None,
    truncate: Truncate = True,
    max_length: MaxLength = None,
    threads: Threads = None,
    per_channel: PerChannel = False,
) -> None:
    """Find names and the like in texts: JSON Lines of text and spans with label, score, word, start and end."""
    from modernbert_llama.text_files import read_texts, write_json_lines
    from modernbert_llama.token_classifier import TokenClassifier

    texts = read_texts(text or [], input_)
    results = TokenClassifier(model, n_threads=threads, per_channel=per_channel).tag(
        texts,
        aggregation=aggregation,
        ignore_labels=("O",) if ignore_label is None else ignore_label,
        stride=stride,
        truncate=truncate,
        max_length=max_length,
        show_progress=len(texts) > _MANY,
    )
    write_json_lines(output, ({"text": item, "spans": spans} for item, spans in zip(texts, results, strict=True)))


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="A GGUF file.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List the tensors too: name, type and shape.")] = False,
) -> None:
    """Show what a GGUF file holds."""
    from modernbert_llama.describe import describe, render

    typer.echo(render(describe(model), tensors=tensors))


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

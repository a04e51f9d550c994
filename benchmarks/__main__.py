"""``python -m benchmarks``: one run, all programs by turns. See ``--help``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modernbert_llama.threads import default_threads

from benchmarks import report
from benchmarks.programs import PROGRAMS, ProgramSpec
from benchmarks.runner import run
from benchmarks.shapes import ROOT, SHAPES, Files, with_best_vocabulary
from benchmarks.workloads import FULL, QUICK, TASKS, Plan, Task, task_plan


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks", description="Every way of running ModernBERT on this CPU, by turns.")
    parser.add_argument(
        "--quick", action="store_true", help="two minutes once the files are made: fewer lengths and repeats"
    )
    parser.add_argument(
        "--shape",
        action="append",
        choices=sorted(SHAPES),
        help="may be repeated; default: both, with --quick granite-small",
    )
    parser.add_argument(
        "--programs",
        default="",
        help="comma-separated beginnings of names; default: all of " + ", ".join(spec.name for spec in PROGRAMS),
    )
    parser.add_argument(
        "--workloads",
        default="",
        help="comma-separated names; default: all of " + ", ".join(workload.name for workload in FULL.workloads),
    )
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma-separated; default: %(default)s")
    parser.add_argument(
        "--build",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="another build of ours as NAME-f32, NAME-bf16, NAME-q8_0: DIR holds its modernbert_llama package",
    )
    parser.add_argument("--threads", type=int, default=default_threads(), help="of each program; default: %(default)s")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench", help="default: build/bench")
    return parser.parse_args(arguments)


def _specs(wanted: str, builds: Sequence[str]) -> list[ProgramSpec]:
    known = list(PROGRAMS)
    for build in builds:
        name, separator, folder = build.partition("=")
        if not separator or not (Path(folder) / "modernbert_llama").is_dir():
            raise SystemExit(f"--build {build}: not NAME=DIR with a modernbert_llama package in DIR")
        where = str(Path(folder).resolve())
        known += [ProgramSpec("ours", kind, label=name, build=where) for kind in ("f32", "bf16", "q8_0")]
    prefixes = [prefix.strip() for prefix in wanted.split(",") if prefix.strip()]
    for prefix in prefixes:
        if not any(spec.name.startswith(prefix) for spec in known):
            raise SystemExit(f"--programs {prefix}: no program's name begins so")
    return [spec for spec in known if not prefixes or any(spec.name.startswith(prefix) for prefix in prefixes)]


def _plan(quick: bool, wanted: str) -> Plan:
    plan = QUICK if quick else FULL
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in {workload.name for workload in plan.workloads}:
            raise SystemExit(f"--workloads {name}: none of {', '.join(w.name for w in plan.workloads)}")
    # the query is in the table of starts, whatever else is wanted
    chosen = tuple(w for w in plan.workloads if not names or w.name in names or w.kind == "query")
    return replace(plan, workloads=chosen)


def _tasks(wanted: str) -> list[Task]:
    names = {name.strip() for name in wanted.split(",")}
    for name in names - set(TASKS):
        raise SystemExit(f"--tasks {name}: none of {', '.join(TASKS)}")
    return [task for task in TASKS if task in names]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    args = _arguments(arguments)
    specs = _specs(args.programs, args.build)
    plan = _plan(args.quick, args.workloads)
    tasks = _tasks(args.tasks)
    shapes = args.shape or (["granite-small"] if args.quick else list(SHAPES))
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - start:5.0f} s] {text}", file=sys.stderr, flush=True)

    args.output.mkdir(parents=True, exist_ok=True)
    load = f", load average before {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    caption = report.machine(args.threads)
    results, texts = [], [caption.replace("\n", f"{load}\n", 1) + "\n"]
    for shape in shapes:
        spec = with_best_vocabulary(SHAPES[shape])
        files = Files(ROOT / "build" / "bench" / f"{spec.name}-{spec.vocab}", spec)
        if "embed" in tasks:
            results.append(run(files, plan, specs, args.threads, say))
            texts.append(report.render(results[-1]))
        others = [
            run(files.of(task), task_plan(task, quick=args.quick), specs, args.threads, say)
            for task in tasks
            if task != "embed"
        ]
        if others:
            texts.append(report.render_tasks(others))
            results += others
    print("\n".join(texts))
    (args.output / "benchmark.md").write_text("\n".join(texts), encoding="utf-8")
    report.write_csv(results, args.output / "benchmark.csv")
    embedded = [result for result in results if result.files.task == "embed"]
    if embedded:
        report.plot(embedded, args.output / "benchmark.png", caption)
    say(f"written: {args.output}/benchmark.md, .csv, .png")


if __name__ == "__main__":
    main()

"""The patches: list, apply, check, refresh, export.

``patches/upstreams.json`` pins the upstreams, ``patches/<upstream>/series`` orders that upstream's patches. Standard
library and git only. The build runs this file by its path, before the package exists; ``modernbert-llama patches``
forwards to :func:`main`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

if not __package__:
    # Run by path: the siblings are wanted without the package's __init__, which needs the compiled module.
    _here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != _here]
    _package = types.ModuleType("modernbert_llama")
    _package.__path__ = [str(_here)]
    sys.modules["modernbert_llama"] = _package

from modernbert_llama.errors import PatchSetError
from modernbert_llama.gittree import STAMP, Git, folder_digests, hash_of, reason, tree_hash
from modernbert_llama.mbox import letter
from modernbert_llama.patchfile import TRAILERS, Patch, PatchSet, slug, write_atomically
from modernbert_llama.refresh import Refreshed, refresh, resume, summary
from modernbert_llama.upstream import Upstream, extract, fetch, file_sha256, newest_version
from modernbert_llama.worktree import BASE, commits, export_commits, pristine, workspace

__all__ = [
    "Patch",
    "PatchSet",
    "Refreshed",
    "apply",
    "apply_git",
    "check",
    "default_root",
    "export",
    "export_mbox",
    "main",
    "refresh",
    "resume",
    "slug",
    "tree_hash",
]


def default_root() -> Path:
    """The patches folder of the checkout that this file lies in."""
    root = Path(__file__).resolve().parents[2] / "patches"
    if not (root / "upstreams.json").is_file():
        raise PatchSetError("an installed package carries no patches: run this in a checkout, or pass --patches DIR")
    return root


def _series_hash(series: Sequence[Path]) -> str:
    return hashlib.sha256("".join(f"{file_sha256(path)}  {path.name}\n" for path in series).encode()).hexdigest()


def apply(patches: PatchSet, upstream: Upstream, dest: Path, sdist: Path | None = None) -> bool:
    """Make ``dest`` the patched tree; false when its stamp says that it already is.

    All or nothing: ``dest`` appears (or is replaced) by a rename once the tree's hash is right. A file that did not
    change keeps its time stamp, so that an incremental build stays one. Raises PatchSetError, also when ``dest`` holds
    something that this function did not make.
    """
    series = patches.series(upstream)
    missing = [path for path in series if not path.is_file()]
    if missing:
        raise PatchSetError(f"{missing[0]}: listed in series, but there is no such file")
    stamp = json.dumps({"upstream": upstream.name, "tree": upstream.tree, "series": _series_hash(series)}) + "\n"
    old = dest / STAMP
    if old.is_file() and old.read_text(encoding="utf-8") == stamp:
        return False
    _require_ours(dest)
    archive = fetch(upstream, sdist)
    with _beside(dest) as tree:
        extract(upstream, archive, tree)
        git = Git(tree)
        for path in series:
            done = git.run("apply", "--whitespace=nowarn", str(path.resolve()), check=False)
            if done.returncode:
                raise PatchSetError(f"{path.name}: does not apply to {upstream.name}: {reason(done)}")
        digests = folder_digests(tree)
        if hash_of(digests) != upstream.tree:
            raise PatchSetError(
                f"{upstream.name}: the patched tree's hash is {hash_of(digests)}, but the pin says "
                f"{upstream.tree or 'none'}; after editing patches run: refresh --from {upstream.name}"
            )
        if old.is_file():
            for name, digest in digests.items():
                before = dest / name
                if before.is_file() and file_sha256(before) == digest:
                    times = before.stat()
                    os.utime(tree / name, ns=(times.st_atime_ns, times.st_mtime_ns))
        (tree / STAMP).write_text(stamp, encoding="utf-8")
    return True


def apply_git(patches: PatchSet, upstream: Upstream, dest: Path, sdist: Path | None = None) -> None:
    """Make ``dest``, new or empty, a repository to work in: the tag "upstream", then one commit for each patch."""
    if dest.exists() and any(dest.iterdir()):
        raise PatchSetError(f"{dest}: not empty; a tree to work in is never overwritten")
    archive = fetch(upstream, sdist)
    with _beside(dest) as tree:
        git = pristine(upstream, archive, tree)
        for path in patches.series(upstream):
            git.am(path)


def _require_ours(dest: Path) -> None:
    if dest.is_symlink() or (dest.exists() and not dest.is_dir()):
        raise PatchSetError(f"{dest}: not a folder")
    if dest.is_dir() and any(dest.iterdir()) and not (dest / STAMP).is_file():
        raise PatchSetError(f"{dest}: not empty and not made by 'apply'; remove it or choose another folder")


@contextmanager
def _beside(dest: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``dest`` at the end, or vanishes on an error."""
    dest = dest.resolve()
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}-") as name:
        tree = Path(name) / "tree"
        tree.mkdir()
        yield tree
        if dest.exists():
            dest.rename(Path(name) / "old")
        tree.rename(dest)


def export(
    patches: PatchSet,
    upstream: Upstream,
    tree: Path | None = None,
    output: Path | None = None,
    sdist: Path | None = None,
) -> list[str]:
    """Write the commits above the tag "upstream" of ``tree`` as patch files; the names, in order.

    Without ``tree``, the committed series is applied and written again. Without ``output`` the upstream's own folder
    and its pin are updated. Raises PatchSetError when ``tree`` holds uncommitted changes or another upstream.
    """
    with _series_tree(patches, upstream, tree, sdist) as git:
        return export_commits(patches, upstream, git, output)


def export_mbox(
    patches: PatchSet, upstream: Upstream, mbox: Path, tree: Path | None = None, sdist: Path | None = None
) -> Path:
    """Write the commits that :func:`export` would write as one mbox for ``git am``; the path of its cover letter.

    The cover letter lies beside the mbox, with the ending ".cover". Paths in the mails are relative to llama.cpp's
    root. Raises PatchSetError, also for a series without patches.
    """
    cover = mbox.with_suffix(".cover")
    if cover == mbox:
        raise PatchSetError(f"{mbox}: the cover letter would have the same name; choose another ending, such as .mbox")
    with _series_tree(patches, upstream, tree, sdist) as git:
        series = commits(git)
        if not series:
            raise PatchSetError(f"{upstream.name}: the series has no patches to send")
        mails = letter(git, upstream, series, BASE, patches.notes(upstream))
    mbox.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(mbox, mails.mbox)
    write_atomically(cover, mails.cover)
    return cover


@contextmanager
def _series_tree(patches: PatchSet, upstream: Upstream, tree: Path | None, sdist: Path | None) -> Iterator[Git]:
    """``tree`` if it is fit to be exported, or a repository with the committed series, for the time being."""
    if tree is None:
        with workspace() as folder:
            git = pristine(upstream, fetch(upstream, sdist), folder)
            for path in patches.series(upstream):
                git.am(path, "--3way")
            yield git
        return
    git = Git(tree)
    if not (tree / ".git").exists():
        raise PatchSetError(f"{tree}: no git repository; make one with: apply --git")
    made_for = git.run("config", "patchset.upstream", check=False).stdout.decode().strip()
    if made_for != upstream.name:
        raise PatchSetError(f"{tree}: made for {made_for or 'another purpose'}, not for {upstream.name}")
    if git.text("status", "--porcelain", "--untracked-files=no"):
        raise PatchSetError(f"{tree}: holds changes that are not committed")
    yield git


def check(patches: PatchSet, upstream: Upstream, sdist: Path | None = None) -> list[str]:
    """All that is wrong with an upstream's pin and patches, one sentence each; an empty list is a pass."""
    found = patches.problems(upstream)
    try:
        archive = fetch(upstream, sdist)
        with workspace() as folder:
            git = pristine(upstream, archive, folder)
            series = [path for path in dict.fromkeys(patches.series(upstream)) if path.is_file()]
            for path in series:
                git.am(path)
            digest = hash_of(git.digests("HEAD"))
            if digest != upstream.tree:
                found.append(f"the patched tree's hash is {digest}, but the pin says {upstream.tree or 'none'}")
            for path, commit in zip(series, commits(git), strict=True):
                if git.format_patch(commit) != path.read_bytes():
                    found.append(f"{path.name}: an export differs from the file; run refresh or export")
    except PatchSetError as error:
        found.append(str(error))
    return found


def _list(patches: PatchSet, names: Sequence[str]) -> None:
    for upstream in [patches.upstream(name) for name in names] or patches.upstreams():
        series = patches.patches(upstream)
        print(f"{upstream.name}  (llama.cpp {upstream.commit or 'unknown'}, {len(series)} patches)")
        for patch in series:
            status = ", ".join(f"{trailer}: {patch.trailers.get(trailer, '?')}" for trailer in TRAILERS)
            added, removed = sum(change[1] for change in patch.files), sum(change[2] for change in patch.files)
            print(f"  {patch.path.name}  +{added} -{removed}  ({status})\n      {patch.subject}")
            for name, plus, minus in patch.files:
                print(f"      {name}  +{plus} -{minus}")


def _refresh(patches: PatchSet, args: argparse.Namespace) -> int:
    if args.resume:
        if not args.dest:
            raise PatchSetError("--continue needs the --dest of the refresh that stopped")
        results, written, target = resume(patches, args.dest, keep_going=args.keep_going)
    else:
        source = patches.upstream(args.source)
        target = _refresh_target(patches, source, args.target, args.version, args.commit)
        results, written = refresh(
            patches,
            source,
            target,
            keep_going=args.keep_going,
            dest=args.dest,
            source_sdist=args.sdist,
            target_sdist=args.to_sdist or (args.sdist if target.name == source.name else None),
        )
    _print_results(results)
    conflicts = [result.name for result in results if result.status == "conflict"]
    if written:
        print(f"written: {patches.folder(target)} and the pin{', without those in conflict' if conflicts else ''}")
        return 1 if conflicts else 0
    if args.dest:
        print(f"{args.dest} holds the conflict of {conflicts[0]}: edit the files and git add them, or leave the")
        print(f"patch out with git cherry-pick --skip; then: refresh --continue --dest {args.dest}")
    else:
        print("nothing written; --dest DIR keeps the tree with the first conflict, --keep-going leaves conflicts out")
    return 1


def _refresh_target(patches: PatchSet, source: Upstream, name: str, version: str, commit: str) -> Upstream:
    if not version:
        return patches.upstream(name or source.name)
    if version == "latest":
        version = newest_version(source.package)
        if version == source.version:
            raise PatchSetError(f"{source.name} is the newest release already")
    name = f"{source.package}-{version}"
    known = [upstream for upstream in patches.upstreams() if upstream.name == name]
    new = dataclasses.replace(source, name=name, version=version, commit=commit, sha256="", tree="")
    return known[0] if known else new


def _print_results(results: Sequence[Refreshed]) -> None:
    statuses = max((len(result.status) for result in results), default=0)
    for result in results:
        print(f"{result.status:{statuses}}  {result.name}")
        details = [f"in {' '.join(result.files)}"] if result.files else []
        for line in [*details, *filter(None, [result.note])]:
            print(f"{'':{statuses}}    {line}")
    print(summary(results))


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--patches", type=Path, help="the patches folder (default: that of the checkout)")
    local = argparse.ArgumentParser(add_help=False)
    local.add_argument("--sdist", type=Path, help="a source distribution at hand, instead of a download")
    one = argparse.ArgumentParser(add_help=False)
    one.add_argument("--upstream", help="which upstream (default: the newest)")
    parser = argparse.ArgumentParser(prog="modernbert-llama patches", description="The patches over llama.cpp.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|apply|check|refresh|export")

    verb = verbs.add_parser("list", parents=[common], help="each patch: status, files, lines")
    verb.add_argument("--upstream", help="only this upstream (default: all)")

    verb = verbs.add_parser("apply", parents=[common, local, one], help="fetch, unpack and patch a tree")
    verb.add_argument("--dest", type=Path, required=True, help="the folder to make")
    verb.add_argument("--git", action="store_true", help="make it a repository with one commit for each patch")

    verb = verbs.add_parser("check", parents=[common, local], help="verify pins, series, headers, trees and exports")
    verb.add_argument("--upstream", help="only this upstream (default: all)")

    verb = verbs.add_parser("refresh", parents=[common, local], help="carry a series to another upstream, or renew it")
    verb.add_argument("--from", dest="source", help="the upstream whose series is carried (default: the newest)")
    goal = verb.add_mutually_exclusive_group()
    goal.add_argument("--to", dest="target", help="an upstream in upstreams.json (default: the same)")
    goal.add_argument("--version", help="a release that is not in upstreams.json yet, or 'latest'")
    goal.add_argument("--continue", dest="resume", action="store_true", help="go on in --dest, its conflict resolved")
    verb.add_argument("--commit", default="", help="with --version: the llama.cpp commit, for the record")
    verb.add_argument("--to-sdist", type=Path, help="the new upstream's source distribution at hand")
    verb.add_argument("--keep-going", action="store_true", help="write the series without the patches in conflict")
    verb.add_argument("--dest", type=Path, help="keep the work tree here")

    verb = verbs.add_parser("export", parents=[common, local, one], help="write the patch files")
    verb.add_argument("--tree", type=Path, help="a repository made by apply --git (default: the committed series)")
    where = verb.add_mutually_exclusive_group()
    where.add_argument("--output", type=Path, help="write here, and leave the pin alone")
    where.add_argument(
        "--mbox",
        type=Path,
        metavar="FILE",
        help="write one file for `git am` instead, and FILE's cover letter (.cover)",
    )
    return parser


def _run(args: argparse.Namespace) -> int:
    patches = PatchSet(args.patches or default_root())
    if args.verb == "list":
        _list(patches, [args.upstream] if args.upstream else [])
    elif args.verb == "refresh":
        return _refresh(patches, args)
    elif args.verb == "check":
        failed = False
        for upstream in [patches.upstream(args.upstream)] if args.upstream else patches.upstreams():
            problems = check(patches, upstream, args.sdist)
            print(f"{upstream.name}: {f'problems: {len(problems)}' if problems else 'ok'}")
            for problem in problems:
                print(f"  {problem}")
            failed = failed or bool(problems)
        return int(failed)
    elif args.verb == "export":
        upstream = patches.upstream(args.upstream)
        if args.mbox:
            cover = export_mbox(patches, upstream, args.mbox, args.tree, args.sdist)
            print(f"{args.mbox}: for git am in a llama.cpp checkout\n{cover}: the cover letter")
            return 0
        for name in export(patches, upstream, args.tree, args.output, args.sdist):
            print(name)
    else:
        upstream = patches.upstream(args.upstream)
        if args.git:
            apply_git(patches, upstream, args.dest, args.sdist)
            print(f"{args.dest}: {upstream.name} as a repository; edit, commit, then: export --tree {args.dest}")
        elif apply(patches, upstream, args.dest, args.sdist):
            print(f"{args.dest}: {upstream.name}, patched")
        else:
            print(f"{args.dest}: up to date")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status: 0, or 1 with the problem on standard error."""
    args = _parser().parse_args(argv)
    try:
        return _run(args)
    except PatchSetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

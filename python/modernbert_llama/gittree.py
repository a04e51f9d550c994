"""git on trees of our own making, and the hash of a tree."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from modernbert_llama.errors import PatchSetError
from modernbert_llama.upstream import file_sha256

__all__ = ["IDENTITY", "STAMP", "Git", "folder_digests", "hash_of", "reason", "tree_hash"]

STAMP = ".patchset-stamp"  # lies in a tree made by `apply`, and is no part of it
STAT = "--stat=72"  # columns, as in git's own mails
IDENTITY = ("modernbert-llama developers", "modernbert-llama@users.noreply.github.com")


class Git:
    """git in one folder, deaf to the user's configuration and to any repository around that folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        self.env |= {
            # inside another work tree `git apply` would take all paths for foreign, skip them and exit 0
            "GIT_CEILING_DIRECTORIES": str(self.folder.parent),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_DEFAULT_HASH": "sha1",
            "LC_ALL": "C",
        }

    def run(self, *args: str, check: bool = True, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        settings = {
            "user.name": IDENTITY[0],
            "user.email": IDENTITY[1],
            "commit.gpgSign": "false",
            "core.autocrlf": "false",
            "core.editor": "true",
            "core.hooksPath": os.devnull,
            "core.attributesFile": os.devnull,
            "core.quotePath": "true",
            "diff.suppressBlankEmpty": "false",
            "diff.orderFile": os.devnull,
            "gc.auto": "0",
            "merge.conflictStyle": "diff3",
            "merge.renameLimit": "20000",
            "advice.mergeConflict": "false",
        }
        flags = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        try:
            done = subprocess.run(
                ["git", *flags, *args], cwd=self.folder, env=self.env, input=data, capture_output=True, check=False
            )
        except FileNotFoundError as error:
            raise PatchSetError("git is needed to apply the patches, and is not installed") from error
        if check and done.returncode:
            raise PatchSetError(f"git {args[0]}: {(done.stderr or done.stdout).decode(errors='replace').strip()}")
        return done

    def text(self, *args: str) -> str:
        return self.run(*args).stdout.decode("utf-8", errors="replace").strip()

    def init(self, branch: str) -> None:
        self.run("init", "--quiet", "--template=", f"--initial-branch={branch}")
        # for the developer's own git commands in this tree
        for key, value in (("user.name", IDENTITY[0]), ("user.email", IDENTITY[1]), ("core.autocrlf", "false")):
            self.run("config", key, value)
        (self.folder / ".git" / "info").mkdir(exist_ok=True)
        # stands above any .gitattributes of the tree: bytes stay as they are
        (self.folder / ".git" / "info" / "attributes").write_text("* -text -ident -filter !diff !merge !eol\n")

    def commit_all(self, message: str) -> None:
        self.env |= {"GIT_AUTHOR_DATE": "2000-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2000-01-01T00:00:00Z"}
        # forced, as upstream's .gitignore covers files of its own
        self.run("-c", "core.looseCompression=1", "add", "--force", "--all")
        self.run("commit", "--quiet", "--allow-empty", "--no-verify", "-m", message)
        del self.env["GIT_AUTHOR_DATE"], self.env["GIT_COMMITTER_DATE"]

    def am(self, path: Path, *options: str) -> None:
        done = self.run(
            *("am", "--quiet", "--keep", "--keep-cr", "--no-scissors", "--whitespace=nowarn"),
            *("--committer-date-is-author-date", *options, str(path.resolve())),
            check=False,
        )
        if done.returncode:
            self.run("am", "--abort", check=False)
            raise PatchSetError(f"{path.name}: does not apply: {reason(done)}")

    def format_patch(self, commit: str) -> bytes:
        """The patch file of one commit, the same bytes whatever git's version, configuration and the clock."""
        return self._format_patch(commit, "--no-stat", "--keep-subject")

    def mail(self, commit: str, prefix: str, headers: Mapping[str, str]) -> bytes:
        """One commit as a mail for reviewers: "[prefix] subject", more headers, a diffstat before the diff."""
        added = [f"--add-header={name}: {value}" for name, value in headers.items()]
        return self._format_patch(commit, STAT, "--summary", f"--subject-prefix={prefix}", *added)

    def diffstat(self, since: str) -> str:
        """The files that HEAD changes, and how much."""
        return self.run("diff", STAT, "--summary", "--no-renames", "--no-ext-diff", f"{since}..HEAD").stdout.decode()

    def _format_patch(self, commit: str, *more: str) -> bytes:
        return self.run(
            *("format-patch", "--stdout", "-1", "--zero-commit", "--no-signature", "--full-index"),
            *("--no-numbered", "--no-renames", "--no-attach", "--no-thread", "--no-base"),
            *("--no-to", "--no-cc", "--no-notes", "--no-cover-letter", "--no-encode-email-headers", "--no-color"),
            *("--unified=3", "--inter-hunk-context=0", "--diff-algorithm=myers", "--indent-heuristic", "--binary"),
            *("--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/", *more, commit),
        ).stdout

    def digests(self, commit: str) -> dict[str, str]:
        """The sha256 of each file of a commit."""
        listing = self.run("ls-tree", "-r", "-z", commit).stdout.decode().split("\0")
        entries = [(entry.partition("\t")[0].split(), entry.partition("\t")[2]) for entry in listing if entry]
        blobs = list(dict.fromkeys(fields[2] for fields, _ in entries))
        output = self.run("cat-file", "--batch", data="\n".join(blobs).encode() + b"\n").stdout
        sums: dict[str, str] = {}
        position = 0
        for blob in blobs:
            end = output.index(b"\n", position)
            size = int(output[position:end].split()[2])
            sums[blob] = hashlib.sha256(output[end + 1 : end + 1 + size]).hexdigest()
            position = end + size + 2
        return {path: sums[fields[2]] for fields, path in entries}


def reason(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = (done.stderr + done.stdout).decode(errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return "; ".join(errors or lines) or f"git exited with {done.returncode}"


def folder_digests(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != ".git"]
        for name in files:
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            if relative != STAMP:
                found[relative] = file_sha256(path)
    return found


def hash_of(digests: Mapping[str, str]) -> str:
    lines = (f"{digests[path]}  {path}\n" for path in sorted(digests, key=lambda path: path.encode()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def tree_hash(folder: Path) -> str:
    """The hash of a tree: sha256 of what ``sha256sum`` prints for its files in byte order of their paths.

    Names and contents only: execute bits do not survive on every system, and the re-export of ``check`` sees those.
    """
    return hash_of(folder_digests(folder))

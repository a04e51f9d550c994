"""The patch files: one patch as a mail, and the folder that holds the pins and each upstream's series."""

from __future__ import annotations

import dataclasses
import email
import email.policy
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from modernbert_llama.errors import PatchSetError
from modernbert_llama.upstream import Upstream

__all__ = ["TRAILERS", "Patch", "PatchSet", "slug", "write_atomically"]

TRAILERS = ("Forwarded", "Applied-Upstream")


def slug(subject: str) -> str:
    """A patch's identity across upstreams, and its file name: the subject in lower case, words joined by "-"."""
    return re.sub(r"[^a-z0-9]+", "-", subject.lower()).strip("-")


@dataclasses.dataclass(frozen=True)
class Patch:
    """One patch file: a mail as ``git format-patch`` writes it. ``files`` is (path, lines added, lines removed)."""

    path: Path
    sender: str
    subject: str
    body: str
    trailers: Mapping[str, str]
    files: tuple[tuple[str, int, int], ...]

    @classmethod
    def read(cls, path: Path) -> Patch:
        """Parse a patch file; parts that are missing are empty. Raises PatchSetError when it is not UTF-8."""
        try:
            text = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PatchSetError(f"{path}: cannot be read: {error}") from error
        mail = re.sub(r"\AFrom [^\n]*\n", "", text)
        head, _, rest = mail.partition("\n\n")
        headers = email.message_from_string(head + "\n\n", policy=email.policy.default)
        start = re.search(r"^(---|diff --git .*)$", rest, re.MULTILINE)
        message = rest[: start.start()] if start else rest
        trailers: dict[str, str] = {}
        prose: list[str] = []
        for line in message.splitlines():
            found = re.fullmatch(rf"({'|'.join(TRAILERS)}):\s*(.*?)\s*", line)
            if found:
                trailers[found[1]] = found[2]
            else:
                prose.append(line)
        return cls(
            path=path,
            sender=str(headers.get("From", "")),
            subject=str(headers.get("Subject", "")),
            body="\n".join(prose).strip(),
            trailers=trailers,
            files=tuple(_changes(rest[start.start() :] if start else "")),
        )

    def problems(self) -> list[str]:
        """What the headers lack, one sentence each."""
        name = self.path.name
        found: list[str] = []
        if not re.search(r"\S.*<\S+@\S+>", self.sender):
            found.append(f"{name}: no From header with a name and an address")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_./, +-]* : [!-~][ -~]*", self.subject):
            found.append(f"{name}: the Subject must be ASCII in the form 'module : title', not {self.subject!r}")
        elif name != f"{slug(self.subject)}.patch":
            found.append(f"{name}: must be named {slug(self.subject)}.patch after its Subject")
        if not self.body:
            found.append(f"{name}: no body that says what was wrong and how to test it")
        found += [f"{name}: no {trailer}: trailer" for trailer in TRAILERS if not self.trailers.get(trailer)]
        if not self.files:
            found.append(f"{name}: changes nothing")
        return found


def _changes(diff: str) -> Iterator[tuple[str, int, int]]:
    """(path, added, removed) of each file; hunks are counted by their headers, as a removed "-- x" looks like one."""
    path, added, removed, old, new = "", 0, 0, 0, 0
    for line in diff.split("\n"):
        if old > 0 or new > 0:
            added += line.startswith("+")
            removed += line.startswith("-")
            old -= not line.startswith(("+", "\\"))
            new -= not line.startswith(("-", "\\"))
        elif line.startswith("diff --git "):
            if path:
                yield path, added, removed
            path, added, removed = line.rpartition(" b/")[2].rstrip('"'), 0, 0
        elif hunk := re.match(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@", line):
            old, new = int(hunk[1] or 1), int(hunk[2] or 1)
    if path:
        yield path, added, removed


@dataclasses.dataclass(frozen=True)
class PatchSet:
    """The patches folder ``root``: the pins and one folder of patches for each."""

    root: Path

    @property
    def pins(self) -> Path:
        """``upstreams.json``."""
        return self.root / "upstreams.json"

    def upstreams(self) -> list[Upstream]:
        """The pinned upstreams, newest first."""
        try:
            entries = json.loads(self.pins.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PatchSetError(f"{self.pins}: cannot be read: {error}") from error
        if not isinstance(entries, list) or not entries:
            raise PatchSetError(f"{self.pins}: must hold a list of at least one upstream")
        upstreams = [Upstream.from_json(entry, f"{self.pins}, entry {i}") for i, entry in enumerate(entries)]
        names = [upstream.name for upstream in upstreams]
        if len(set(names)) < len(names):
            raise PatchSetError(f"{self.pins}: an upstream is named twice: {', '.join(names)}")
        return upstreams

    def upstream(self, name: str | None = None) -> Upstream:
        """The upstream of that name, or the newest."""
        upstreams = self.upstreams()
        for upstream in upstreams:
            if name in (None, upstream.name):
                return upstream
        raise PatchSetError(f"no upstream {name!r} in {self.pins}; there are: {', '.join(u.name for u in upstreams)}")

    def pin(self, upstream: Upstream) -> None:
        """Write ``upstream`` into ``upstreams.json``: in place of its old entry, or in the order of versions."""
        upstreams = self.upstreams()
        if upstream.name in (known.name for known in upstreams):
            upstreams = [upstream if known.name == upstream.name else known for known in upstreams]
        else:
            upstreams.insert(_place(upstreams, upstream), upstream)
        text = json.dumps([entry.to_json() for entry in upstreams], indent=2) + "\n"
        write_atomically(self.pins, text.encode())

    def folder(self, upstream: Upstream) -> Path:
        """The folder of an upstream's patches."""
        return self.root / upstream.name

    def series(self, upstream: Upstream) -> list[Path]:
        """The patch files in order (quilt's format: one name a line, "#" starts a comment); no file, no patches."""
        folder = self.folder(upstream)
        if not (folder / "series").is_file():
            return []
        lines = (folder / "series").read_text(encoding="utf-8").splitlines()
        names = [line.partition("#")[0].strip() for line in lines]
        return [folder / name for name in names if name]

    def notes(self, upstream: Upstream) -> list[str]:
        """The comment lines of the series: the title of its cover letter, then the introduction."""
        series = self.folder(upstream) / "series"
        lines = series.read_text(encoding="utf-8").splitlines() if series.is_file() else []
        return [line[1:].strip() for line in lines if line.startswith("#")]

    def patches(self, upstream: Upstream) -> list[Patch]:
        """The parsed patches in order."""
        return [Patch.read(path) for path in self.series(upstream)]

    def problems(self, upstream: Upstream) -> list[str]:
        """What is wrong with the pin and the files themselves: the sha256, the series, the names, the headers."""
        series = self.series(upstream)
        folder = self.folder(upstream)
        found = [] if re.fullmatch(r"[0-9a-f]{64}", upstream.sha256) else ["the pin's sha256 is not one"]
        found += [f"{path.name}: listed twice in series" for path in sorted({p for p in series if series.count(p) > 1})]
        orphans = sorted({path for path in folder.rglob("*") if path.is_file()} - {*series, folder / "series"})
        found += [f"{path.relative_to(folder)}: not listed in series" for path in orphans]
        for path in dict.fromkeys(series):
            if not path.is_file():
                found.append(f"{path.name}: listed in series, but there is no such file")
                continue
            try:
                found += Patch.read(path).problems()
            except PatchSetError as error:
                found.append(str(error))
        return found


def _place(upstreams: list[Upstream], new: Upstream) -> int:
    """Above the first older release of its package, else below its last one; another package goes to the end."""

    def key(upstream: Upstream) -> list[int]:
        return [int(digits) for digits in re.findall(r"\d+", upstream.version)]

    same = [i for i, known in enumerate(upstreams) if known.package == new.package]
    older = [i for i in same if key(upstreams[i]) < key(new)]
    if older:
        return older[0]
    return same[-1] + 1 if same else len(upstreams)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file by way of a temporary one beside it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)

"""A series as mail: one mbox for ``git am``, and its cover letter.

They are two files because git stops at a mail without a diff (without ``am --empty=drop``).
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import textwrap
from collections.abc import Sequence

from modernbert_llama.gittree import IDENTITY, Git
from modernbert_llama.patchfile import TRAILERS
from modernbert_llama.upstream import Upstream

__all__ = ["Letter", "Message", "letter"]

FROM = f"From {'0' * 40} Mon Sep 17 00:00:00 2001"  # the magic of `git format-patch`: no mailbox has this date
_OURS = re.compile(rf"^(?:{'|'.join(TRAILERS)}):.*\n?", re.MULTILINE)  # bookkeeping of this repository


@dataclasses.dataclass(frozen=True)
class Message:
    """What a commit message says, by its paragraphs: why and what, the figures, the tests."""

    effect: str
    figures: str
    tests: str

    @classmethod
    def parse(cls, body: str) -> Message:
        """Split at the paragraphs that begin with "Measured" or "Effect", and "How to test"; each runs to the next."""
        parts: dict[str, list[str]] = {"effect": [], "figures": [], "tests": []}
        current = "effect"
        for paragraph in re.split(r"\n[ \t]*\n", _OURS.sub("", body).strip()):
            if re.match(r"(Measured|Effect)\b", paragraph):
                current = "figures"
            elif re.match(r"How to test\b", paragraph):
                current = "tests"
            parts[current].append(paragraph)
        return cls(**{name: "\n\n".join(paragraphs) for name, paragraphs in parts.items()})


@dataclasses.dataclass(frozen=True)
class Letter:
    """``mbox`` is what ``git am`` reads, ``cover`` the mail that the others reply to."""

    mbox: bytes
    cover: bytes


def letter(git: Git, upstream: Upstream, commits: Sequence[str], since: str, notes: Sequence[str]) -> Letter:
    """The commits above ``since`` as mails.

    ``notes`` are the comments of the series: the first is the cover letter's subject, the rest its introduction. The
    same commits give the same bytes, message ids included.
    """
    title = notes[0] if notes else f"{len(commits)} patches for {upstream.name}"
    subjects = [git.text("log", "-1", "--format=%s", commit) for commit in commits]
    bodies = [git.text("log", "-1", "--format=%b", commit) for commit in commits]
    contents = [git.format_patch(commit) for commit in commits]
    ids = [_message_id(str(number), content) for number, content in enumerate(contents, 1)]
    cover_id = _message_id("cover", b"".join([upstream.name.encode(), *contents]))
    width = len(str(len(commits)))

    def prefix(number: int) -> str:
        return f"PATCH {number:0{width}}/{len(commits)}"

    mails = []
    for number, commit in enumerate(commits, 1):
        headers = {"Message-ID": ids[number - 1], "In-Reply-To": cover_id, "References": cover_id}
        mails.append(_without_ours(git.mail(commit, prefix(number), headers)))
    head = [
        FROM,
        f"Message-ID: {cover_id}",
        f"From: {IDENTITY[0]} <{IDENTITY[1]}>",
        f"Date: {git.text('log', '-1', '--format=%aD')}",
        f"Subject: [{prefix(0)}] {title}",
    ]
    base = upstream.commit or "(commit unknown)"
    entries = [_entry(number, *entry) for number, entry in enumerate(zip(subjects, bodies, strict=True), 1)]
    parts = [
        "\n".join(notes[1:]).strip(),
        f"Applies to llama.cpp {base}, as {upstream.package} {upstream.version} has it.",
        *entries,
        git.diffstat(since).rstrip(),
    ]
    text = "\n".join(head) + "\n\n" + "\n\n".join(part for part in parts if part) + "\n"
    return Letter(b"".join(mails), text.encode())


def _entry(number: int, subject: str, body: str) -> str:
    """A patch in the cover letter: its subject, the first paragraph, the figures, the tests."""
    message = Message.parse(body)
    parts = [message.effect.partition("\n\n")[0], message.figures, message.tests]
    return f"{number}. {subject}\n\n" + textwrap.indent("\n\n".join(part for part in parts if part), "   ")


def _message_id(name: str, content: bytes) -> str:
    return f"<{name}.{hashlib.sha256(content).hexdigest()[:24]}@{IDENTITY[1].partition('@')[2]}>"


def _without_ours(mail: bytes) -> bytes:
    message, separator, rest = mail.partition(b"\n---\n")
    text = _OURS.sub("", message.decode() + "\n").rstrip()
    return text.encode() + separator + rest

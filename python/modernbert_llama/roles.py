"""What a late-interaction model does with its queries and with its documents: in a GGUF file, and to token ids.

The tokens that a role adds and drops are known by their ids: the file needs no other tokenizer than the embedded one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

__all__ = ["Expansion", "Role", "decode_roles", "encode_roles"]

RoleName = Literal["query", "document"]
Strategy = Literal["fixed", "min"]


@dataclass(frozen=True)
class Expansion:
    """Filling a text up to ``length`` tokens with ``token``, whose vectors count as those of the text do.

    ``attend``: the text attends to the tokens filled in. Otherwise these attend to the text and nothing to them.
    ``strategy``: "fixed" cuts longer texts to ``length``, "min" leaves them to the role's own limit.
    """

    length: int
    token: int
    attend: bool = False
    strategy: Strategy = "fixed"


@dataclass(frozen=True)
class Role:
    """How the texts of one kind become token ids and vectors.

    ``length`` is the limit in tokens, special tokens and ``marker`` included (None: the model's own). ``marker`` goes
    in behind the first token. ``skip``: tokens whose vectors are left out. ``strip``: white space around a text is cut.
    """

    marker: int | None = None
    length: int | None = None
    expansion: Expansion | None = None
    skip: tuple[int, ...] = field(default=())
    strip: bool = False

    def limit(self, max_length: int) -> int:
        """Tokens that a text may have, the marker included, in a model of ``max_length``."""
        length = max_length if self.length is None else min(self.length, max_length)
        if self.expansion is None:
            return length
        wanted = min(self.expansion.length, max_length)
        return wanted if self.expansion.strategy == "fixed" else max(length, wanted)

    def with_marker(self, ids: list[int]) -> list[int]:
        return ids if self.marker is None else [*ids[:1], self.marker, *ids[1:]]

    def expanded(self, ids: list[int], max_length: int) -> tuple[list[int], int]:
        """The ids filled up, and how many of them nothing attends to."""
        if self.expansion is None:
            return ids, 0
        n_filled = max(min(self.expansion.length, max_length) - len(ids), 0)
        return ids + [self.expansion.token] * n_filled, 0 if self.expansion.attend else n_filled


def encode_roles(roles: Mapping[str, Role]) -> str:
    """A JSON object of the roles by name."""
    return json.dumps({name: asdict(role) for name, role in roles.items()})


def decode_roles(text: str) -> dict[str, Role]:
    """The inverse of :func:`encode_roles`; raises ``ValueError`` with what is wrong."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return {name: _role(name, found.get(name)) for name in get_args(RoleName)}


def _role(name: str, entry: object) -> Role:
    if not isinstance(entry, dict):
        raise ValueError(f"the role {name!r} is not an object")
    skip, filled = entry.get("skip"), entry.get("expansion")
    if not isinstance(skip, list):
        raise ValueError(f"the skip list of {name!r} is not a list")
    expansion = None
    if filled is not None:
        if not isinstance(filled, dict) or filled.get("strategy") not in get_args(Strategy):
            raise ValueError(f"the expansion of {name!r} is not known")
        length, token = _number(name, "length", filled.get("length")), _number(name, "token", filled.get("token"))
        expansion = Expansion(length, token, filled.get("attend") is True, filled["strategy"])
    marker, length_ = entry.get("marker"), entry.get("length")
    return Role(
        None if marker is None else _number(name, "marker", marker),
        None if length_ is None else _number(name, "length", length_),
        expansion,
        tuple(_number(name, "skip", number) for number in skip),
        entry.get("strip") is True,
    )


def _number(role: str, name: str, value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError(f"the {name} of {role!r} is {value!r}")
    return value

"""What the TypeScript SDK offers, read from its sources: names of members, and of what its functions take.

No compiler is needed: the sources are formatted by prettier, which the lint demands, so a declaration of a class or an
interface stands at the margin, and each of its members two spaces from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[3] / "sdk" / "typescript" / "src"

_COMMENT = re.compile(r"/\*\*?.*?\*/|^\s*//.*?$", re.DOTALL | re.MULTILINE)
_INTERNAL = re.compile(r"/\*\* @internal \*/\n.*")
_BLOCK = re.compile(
    r"^export (class|interface) (\w+)(?:<[^{]*>)?(?: extends ([^{]+?))?(?: implements [^{]+)? \{(?:\}|\n(.*?)^\})$",
    re.DOTALL | re.MULTILINE,
)
_FUNCTION = re.compile(r"^export (?:async )?function\*? (\w+)", re.MULTILINE)
_MEMBER = re.compile(
    r"^  (?:(?:static|async|readonly|get|override) )*\*?(\w+|\[[\w.]+\])[?!]?(?=[(:<]| =)", re.MULTILINE
)
_PROPERTY_OF_CONSTRUCTOR = re.compile(r"^    readonly (\w+)\??:", re.MULTILINE)


@dataclass
class Declared:
    """A class or an interface: its members, and what each of those that are methods takes."""

    members: set[str] = field(default_factory=set)
    takes: dict[str, set[str]] = field(default_factory=dict)


class TypeScriptFace:
    """The public face: ``names`` that can be imported, what is ``declared``, and what ``functions`` take."""

    def __init__(self) -> None:
        sources = {path.stem: _without_comments(path.read_text()) for path in sorted(SOURCES.glob("*.ts"))}
        text = "\n".join(sources.values())
        self._blocks = {match[2]: match for match in _BLOCK.finditer(text)}
        self.declared = {name: self._declared(name) for name in self._blocks}
        self.functions = {
            match[1]: self._parameters(_enclosed(text, match.end())) for match in _FUNCTION.finditer(text)
        }
        self.names = set(_exported(sources["index"]))

    def is_value(self, name: str) -> bool:
        """Whether ``name`` is there at run time, as types are not."""
        is_class = name in self._blocks and self._blocks[name][1] == "class"
        return is_class or name in self.functions or name == "VERSION"

    def _declared(self, name: str) -> Declared:
        kind, _, parents, body = self._blocks[name].groups("")
        found = Declared()
        for parent in re.findall(r"\w+", re.sub(r"<.*?>|\w+\.", "", parents)):
            if parent in self._blocks:
                found.members |= self._declared(parent).members
        for match in _MEMBER.finditer(body):
            found.members.add(match[1])
            if body[match.end()] in "(<":
                taken = self._parameters(_enclosed(body, match.end()))
                found.takes[match[1]] = found.takes.get(match[1], set()) | taken
        if kind == "class":
            found.members |= set(_PROPERTY_OF_CONSTRUCTOR.findall(body))
        return found

    def _parameters(self, text: str) -> set[str]:
        taken = set()
        for parameter in _split(text):
            name, _, kind = re.sub(r"\{.*\}(?=:)", "options", parameter.partition(" = ")[0]).partition(":")
            name = name.split()[-1].rstrip("?")
            taken |= set(self._options(kind)) if name in {"options", "egress"} else {name}
        return taken

    def _options(self, kind: str) -> Iterator[str]:
        yield from re.findall(r"(\w+)\??:", kind)
        for name in re.findall(r"\b[A-Z]\w+", kind):
            if name in self._blocks:
                yield from self._declared(name).members


def _without_comments(text: str) -> str:
    return _COMMENT.sub("", _INTERNAL.sub("", text))


def _enclosed(text: str, start: int) -> str:
    """What stands between the next parenthesis and the one that closes it."""
    begin = text.index("(", start) + 1
    depth, at = 1, begin
    while depth:
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        at += 1
    return text[begin : at - 1]


def _split(parameters: str) -> list[str]:
    """Parameters, cut at the commas between them."""
    parts, depth = [""], 0
    for character in parameters.replace("=>", "  "):
        depth += {"(": 1, "{": 1, "[": 1, "<": 1, ")": -1, "}": -1, "]": -1, ">": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part.strip()]


def _exported(index: str) -> Iterator[str]:
    for names in re.findall(r"export (?:type )?\{(.*?)\}", index, re.DOTALL):
        for name in names.split(","):
            if name.strip():
                yield name.split()[-1]

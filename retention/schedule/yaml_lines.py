"""YAML with line numbers, read as plain data and nothing else.

Rules of this module:
- Maps, lists and scalars only; no tags, no objects, no merge keys. A plain scalar is a boolean for `true` and
  `false`, nothing for `null`, `~` and an empty one, a whole number for decimal digits, otherwise text: `no` is
  Norwegian, `2026-01-01` and `1:30` are text, and `010` is text because a number does not start with 0.
- Every value knows its line; a key given twice is a problem.
- Bounded: bytes, depth and the number of values after aliases are expanded, so that a small file cannot
  become a large one. Events are read one by one, so that deep nesting cannot exhaust the stack.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeAlias

import yaml

Data: TypeAlias = "bool | int | str | list[Data] | dict[str, Data] | None"
Path: TypeAlias = "tuple[str | int, ...]"

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 30
MAX_VALUES = 200_000

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
# libyaml's parser where PyYAML was built with it: the same events, ten times sooner.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS: dict[str, Data] = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(frozen=True, slots=True)
class YamlError:
    """One thing wrong with the text as YAML."""

    line: int
    message: str


@dataclass(slots=True)
class Document:
    """The data of a file and where each value of it stands: path of keys and indexes -> line, from 1."""

    data: Data = None
    lines: dict[Path, int] = field(default_factory=dict)
    errors: list[YamlError] = field(default_factory=list)

    def line(self, path: Path) -> int:
        """The line of the value at `path`, or of the nearest value above it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class _TooMuchError(Exception):
    def __init__(self, line: int) -> None:
        self.line = line


@dataclass(slots=True)
class _Node:
    line: int
    scalar: Data = None
    items: list[_Node] | None = None
    pairs: list[tuple[_Node, _Node]] | None = None
    waiting: _Node | None = None  # the key that has no value yet

    def add(self, child: _Node) -> None:
        if self.items is not None:
            self.items.append(child)
        elif self.waiting is None:
            self.waiting = child
        else:
            assert self.pairs is not None
            self.pairs.append((self.waiting, child))
            self.waiting = None


def read(text: str) -> Document:
    """The data of `text`, with every problem of it as YAML. Never raises for what a file may hold."""
    document = Document()
    if len(text) > MAX_BYTES:
        document.errors.append(YamlError(1, f"expected at most {MAX_BYTES} characters, found {len(text)}"))
        return document
    try:
        root = _tree(text, document.errors)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        document.errors.append(YamlError(mark.line + 1 if mark else 1, f"not YAML: {said}"))
        return document
    except yaml.YAMLError as error:
        document.errors.append(YamlError(1, f"not YAML: {' '.join(str(error).split())}"))
        return document
    if root is not None:
        try:
            document.data = _plain(root, (), document, 0)
        except _TooMuchError as error:
            said = f"aliases expand to more than {MAX_VALUES} values or to more than {MAX_DEPTH} levels"
            document.errors.append(YamlError(error.line, said))
    return document


def _tree(text: str, errors: list[YamlError]) -> _Node | None:
    root: _Node | None = None
    stack: list[_Node] = []
    anchors: dict[str, _Node] = {}
    documents = 0
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                errors.append(YamlError(line, "expected one document, found a second one after '---'"))
                return root
        elif isinstance(event, yaml.CollectionEndEvent):
            stack.pop()
        elif isinstance(event, yaml.NodeEvent):
            node = _node(event, line, anchors, errors)
            if stack:
                stack[-1].add(node)
            elif root is None:
                root = node
            if isinstance(event, yaml.CollectionStartEvent):
                stack.append(node)
                if len(stack) > MAX_DEPTH:
                    errors.append(YamlError(line, f"nested deeper than {MAX_DEPTH} levels"))
                    return None
    return root


def _node(event: yaml.NodeEvent, line: int, anchors: dict[str, _Node], errors: list[YamlError]) -> _Node:
    if isinstance(event, yaml.AliasEvent):
        if event.anchor in anchors:
            return anchors[event.anchor]
        errors.append(YamlError(line, f"the alias *{event.anchor} has no anchor &{event.anchor} before it"))
        return _Node(line)
    tag = getattr(event, "tag", None)
    if tag is not None and tag != "!":  # "!" only marks a quoted scalar
        errors.append(YamlError(line, f"tags such as {tag} are not used here"))
    if isinstance(event, yaml.ScalarEvent):
        node = _Node(line, _scalar(event.value) if not event.style else event.value)
    elif isinstance(event, yaml.SequenceStartEvent):
        node = _Node(line, items=[])
    else:
        node = _Node(line, pairs=[])
    if event.anchor is not None:
        anchors[event.anchor] = node
    return node


def _scalar(text: str) -> Data:
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if _WHOLE.fullmatch(text) else text


def _plain(node: _Node, path: Path, document: Document, depth: int) -> Data:
    """The value of a node, with aliases expanded."""
    if len(document.lines) >= MAX_VALUES or depth > MAX_DEPTH:
        raise _TooMuchError(node.line)
    document.lines[path] = node.line
    if node.items is not None:
        return [_plain(item, (*path, i), document, depth + 1) for i, item in enumerate(node.items)]
    if node.pairs is None:
        return node.scalar
    values: dict[str, Data] = {}
    for key_node, value_node in node.pairs:
        if key_node.items is not None or key_node.pairs is not None or key_node.scalar is None:
            document.errors.append(YamlError(key_node.line, "expected text as a key, found a list or a map"))
            continue
        scalar = key_node.scalar
        key = str(scalar).lower() if isinstance(scalar, bool) else str(scalar)
        if key in values:
            first = document.lines[(*path, key)]
            document.errors.append(YamlError(key_node.line, f"{key!r} is given twice, first on line {first}"))
            continue
        values[key] = _plain(value_node, (*path, key), document, depth + 1)
        # The key's line is what a reader looks for, except where the value is elsewhere (an alias).
        document.lines[(*path, key)] = key_node.line
    return values

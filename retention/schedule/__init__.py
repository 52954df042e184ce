"""The schedule file: read, checked whole, and turned into the values of `retention.rules`.

Rules of this module:
- Every problem is reported, not the first, each with its line. What one value says about another is checked
  among the classes and rules that can be read.
- A file with a problem is no schedule: nothing of it is used.
- Names must resolve: a parent, a rule or a replaced rule that is not there is named. Nothing is inherited
  but the parent that an id implies and the action of the class.
- A class that no record could ever leave by its own rules says so with an empty list, not by accident.
- The version of a schedule is the SHA-256 of its bytes. Anyone who has the file can compute it.
"""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from retention import rules
from retention.errors import UsageError
from retention.model import UNCLASSIFIED
from retention.rules import PERMANENT, Action, Combine, RecordClass, Rule, Schedule
from retention.schedule import yaml_lines
from retention.schedule.file import ClassFile, HeaderFile, MatchFile, RuleFile, disposition, record_class

__all__ = ["SAMPLE", "Problem", "RecordClass", "Rule", "Schedule", "ScheduleError", "check", "load"]

SAMPLE = Path(__file__).with_name("sample.yaml")

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing to mend. `line` counts from 1; `message` says where in the file's words, expected, found."""

    line: int
    message: str

    def at(self, name: str) -> str:
        return f"{name}:{self.line}: {self.message}"


class ScheduleError(UsageError):
    """The schedule file cannot be used; `problems` holds every reason, in order of lines."""

    def __init__(self, name: str, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        listed = "\n".join(problem.at(name) for problem in problems)
        super().__init__(f"{listed}\n{count} in the schedule; mend the file, then `muniment schedule check` it.")


def load(source: Path | str, name: str | None = None) -> Schedule:
    """The schedule in a file (Path) or a text (str). Raises ScheduleError, a UsageError with every problem."""
    content, name = _bytes(source, name)
    schedule, problems = _read(content)
    if schedule is None:
        raise ScheduleError(name, problems)
    return schedule


def check(source: Path | str) -> tuple[Problem, ...]:
    """Every problem of a file (Path) or a text (str), in order of lines; empty if it can be used."""
    return _read(_bytes(source, None)[0])[1]


def _bytes(source: Path | str, name: str | None) -> tuple[bytes, str]:
    if isinstance(source, str):
        return source.encode("utf-8", "surrogateescape"), name or "schedule"
    try:
        return source.read_bytes(), name or str(source)
    except OSError as error:
        raise UsageError(
            f"the schedule file {source} cannot be read ({error.strerror}). Give the path of a YAML file; "
            f"{SAMPLE.name} beside the program is one to start from."
        ) from error


def _read(content: bytes) -> tuple[Schedule | None, tuple[Problem, ...]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return None, (Problem(line, f"expected UTF-8, found byte 0x{content[error.start]:02x}"),)
    document = yaml_lines.read(text)
    reading = _Reading(document)
    if document.data is not None or not document.errors:
        reading.read_file()
    problems = {Problem(error.line, error.message) for error in document.errors} | reading.problems
    if problems or reading.header is None:
        return None, tuple(sorted(problems))
    classes = tuple(record_class(known, reading.rules_of(known), reading.parent(known)) for known in reading.classes)
    digest = hashlib.sha256(content).hexdigest()
    settled = disposition(reading.header.disposition)
    return Schedule(digest, reading.header.title, reading.header.timezone, classes, settled), ()


class _Reading:
    """One pass over one file: the pieces that could be read, where each stands, and the problems."""

    def __init__(self, document: yaml_lines.Document) -> None:
        self.document = document
        self.problems: set[Problem] = set()
        self.header: HeaderFile | None = None
        self.shared: dict[str, RuleFile] = {}
        self.classes: list[ClassFile] = []
        self.where: dict[int, yaml_lines.Path] = {}  # id() of a model -> its path in the file

    def problem(self, path: yaml_lines.Path, message: str) -> None:
        label = self._label(path)
        self.problems.add(Problem(self.document.line(path), f"{label}: {message}" if label else message))

    def read_file(self) -> None:
        data = self.document.data
        if not isinstance(data, dict):
            found = "nothing" if data is None else _shown(data)
            self.problem((), f"expected a map with version, title, timezone and classes, found {found}")
            return
        for key in data.keys() - {*HeaderFile.model_fields, "rules", "classes", "anchors"}:
            self.problem((key,), _unknown(key, {*HeaderFile.model_fields, "rules", "classes"}))
        header = {key: data[key] for key in HeaderFile.model_fields if key in data}
        self.header = self._model(HeaderFile, header, ())
        for path, rule in self._list(RuleFile, "rules"):
            if rule.id in self.shared:
                self.problem((*path, "id"), f"another rule of this list has the id {rule.id} already")
            self.shared[rule.id] = rule
        self.classes = [found for _, found in self._list(ClassFile, "classes")]
        if not isinstance(data.get("classes"), list) or not data["classes"]:
            self.problem(("classes",), "expected a list of at least one class")
        self._check_names()
        for known in self.classes:
            self._check_class(known)

    # ---- one value at a time

    def _list(self, model: type[M], key: str) -> Iterator[tuple[yaml_lines.Path, M]]:
        data = self.document.data
        values = data.get(key) if isinstance(data, dict) else None
        if values is None:
            return
        if not isinstance(values, list):
            self.problem((key,), f"expected a list, found {_shown(values)}")
            return
        for i, value in enumerate(values):
            if (found := self._model(model, value, (key, i))) is not None:
                self.where[id(found)] = (key, i)
                yield (key, i), found

    def _model(self, model: type[M], value: Any, path: yaml_lines.Path) -> M | None:
        try:
            return model.model_validate(value)
        except ValidationError as error:
            found = [_worded(self._place(path, one), one, model) for one in error.errors(include_url=False)]
            for place, said in found:
                # Of a choice of shapes pydantic reports each; what went wrong deeper inside says it better.
                if not any(other != place and other[: len(place)] == place for other, _ in found):
                    self.problem(place, said)
            return None

    def _place(self, path: yaml_lines.Path, error: Any) -> yaml_lines.Path:
        """Where in the file: pydantic's location holds tags of unions, which the file does not."""
        for part in error["loc"]:
            if (*path, part) in self.document.lines:
                path = (*path, part)
        missing = error["type"] == "missing"
        return (*path, error["loc"][-1]) if missing else path

    def _label(self, path: yaml_lines.Path) -> str:
        """`class FIN-010: rule r1: period` for ("classes", 3, "rules", 0, "period")."""
        parts: list[str] = []
        for depth, part in enumerate(path):
            if not isinstance(part, int):
                parts.append(part)
                continue
            listed = str(path[depth - 1])
            named = self._at(path[: depth + 1])
            ident = named.get("id", named.get("name")) if isinstance(named, dict) else None
            word = {"classes": "class", "rules": "rule"}.get(listed, listed)
            parts[-1] = f"{word} {ident if ident is not None else f'number {part + 1}'}"
        return ": ".join(parts)

    def _at(self, path: yaml_lines.Path) -> Any:
        value: Any = self.document.data
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    # ---- what one value says about another

    def rules_of(self, known: ClassFile) -> list[RuleFile]:
        found = [rule if isinstance(rule, RuleFile) else self.shared.get(rule) for rule in known.rules]
        return [rule for rule in found if rule is not None]

    def parent(self, known: ClassFile) -> str | None:
        """The parent it names, or the one that its id implies: FIN-010 belongs to FIN where FIN is a class."""
        if known.parent is not None:
            return known.parent
        begun = [i for i in self._ids() if known.id.startswith((f"{i}-", f"{i}."))]
        return max(begun, key=len, default=None)

    def _ids(self) -> set[str]:
        """Ids of all classes, those that could not be read included: they are no unknown names."""
        listed = self._at(("classes",))
        entries = listed if isinstance(listed, list) else []
        return {str(entry.get("id")) for entry in entries if isinstance(entry, dict)}

    def _check_names(self) -> None:
        ids, used_rules = Counter[str](), {r for c in self.classes for r in c.rules if isinstance(r, str)}
        parents = {known.id: self.parent(known) for known in self.classes}
        inline: dict[str, RuleFile] = dict(self.shared)
        matches: dict[str, MatchFile] = {}
        for known in self.classes:
            path = self.where[id(known)]
            ids[known.id] += 1
            if ids[known.id] > 1:
                self.problem((*path, "id"), f"another class has the id {known.id} already")
            for i, rule in enumerate(known.rules):
                if not isinstance(rule, RuleFile):
                    continue
                if rule.id in inline and inline[rule.id] != rule:
                    self.problem((*path, "rules", i, "id"), f"another rule has the id {rule.id} already")
                inline[rule.id] = rule
            for i, match in enumerate(known.match):
                if match.id in matches:
                    self.problem((*path, "match", i, "id"), f"another match has the id {match.id} already")
                matches[match.id] = match
            if parents[known.id] is not None and parents[known.id] not in self._ids():
                self.problem((*path, "parent"), f"there is no class {parents[known.id]}")
            elif known.id in _ancestors(known.id, parents):
                self.problem((*path, "parent"), f"{known.id} would be its own ancestor")
        for i, (rule_id, rule) in enumerate(self.shared.items()):
            if rule_id not in used_rules and len(self.classes) == len(self._at(("classes",)) or []):
                self.problem(self.where.get(id(rule), ("rules", i)), "no class has this rule")

    def _check_class(self, known: ClassFile) -> None:
        path = self.where[id(known)]
        names = {rule.id for rule in self.rules_of(known)}
        raw = self._at(("rules",))
        unread = {str(r.get("id")) for r in raw if isinstance(r, dict)} if isinstance(raw, list) else set()
        for i, entry in enumerate(known.rules):
            if isinstance(entry, str) and entry not in self.shared and entry not in unread:
                self.problem((*path, "rules", i), f"there is no rule {entry}")
        if len(names) < len(self.rules_of(known)):
            self.problem((*path, "rules"), "a rule is named twice")
        if known.combine is Combine.ANY and known.regulatory:
            self.problem((*path, "combine"), "expected all in a regulatory class, found any")
        if known.id == UNCLASSIFIED and known.rules:
            self.problem((*path, "rules"), "expected [], as what is unclassified is never destroyed by machine")
        if known.id == UNCLASSIFIED and known.match:
            self.problem((*path, "match"), "nothing is matched into what is unclassified")
        for i, match in enumerate(known.match):
            self._check_match(match, (*path, "match", i))
        found = self.rules_of(known)
        for rule in found:
            self._check_rule(rule, known, self._rule_path(rule, known, path))
        if known.combine is Combine.ALL and len(found) > 1 and len(names) == len(found):
            for rule in found:
                if rule.period == PERMANENT and not rule.when and not _replaced(rule, found):
                    said = "it is permanent, so the other rules of the class can never make anything due"
                    self.problem(self._rule_path(rule, known, path), said)

    def _rule_path(self, rule: RuleFile, known: ClassFile, path: yaml_lines.Path) -> yaml_lines.Path:
        if (shared := self.where.get(id(rule))) is not None:
            return shared
        return (*path, "rules", next(i for i, entry in enumerate(known.rules) if entry is rule))

    def _check_match(self, match: MatchFile, path: yaml_lines.Path) -> None:
        if not match.model_fields_set - {"id", "text_none"}:
            self.problem(path, "expected a condition such as heading or path: it would match everything")
        for name, condition in match.metadata.items():
            if len(condition.model_fields_set) != 1:
                self.problem((*path, "metadata", name), "expected one of equals, contains and regex")

    def _check_rule(self, rule: RuleFile, known: ClassFile, path: yaml_lines.Path) -> None:
        permanent = rule.period == PERMANENT
        if permanent and rule.action not in {None, Action.PERMANENT}:
            self.problem((*path, "action"), f"expected permanent, as the period is, found {rule.action}")
        if not permanent and (rule.action or known.action) is Action.PERMANENT:
            self.problem((*path, "period"), f"expected permanent, as the action is, found {rule.period!r}")
        if rule.ceiling is not None and (permanent or _longer(rule.period, rule.ceiling)):
            self.problem((*path, "ceiling"), f"expected at least the period {rule.period}, found {rule.ceiling}")
        if rule.triggers_from and rule.triggers_until and rule.triggers_from > rule.triggers_until:
            self.problem((*path, "triggers_until"), f"expected a day not before {rule.triggers_from}")
        if rule.trigger == "document_date" and known.document_date is None:
            said = f"nothing can ever make it due: class {known.id} names no document_date fields"
            self.problem((*path, "trigger"), said)
        if rule.occurrence is rules.Occurrence.FIRST and not rule.trigger.startswith("event:"):
            self.problem((*path, "occurrence"), "expected on an event, as other triggers occur once")
        if rule.later_records is not rules.LaterRecords.STALE and not rule.trigger.startswith("event:"):
            self.problem((*path, "later_records"), "expected on an event, as other triggers are the record's own")
        if rule.verified and (rule.authority.verified_on is None or not rule.authority.verified_by):
            said = "expected verified_on and verified_by, as the rule says that it is verified"
            self.problem((*path, "authority"), said)
        self._check_replaces(rule, known, path)
        for i, condition in enumerate(rule.when):
            compared = condition.comparisons()
            if condition.present is not None and not compared and condition.date is None and not condition.plus:
                continue
            if condition.present is None and condition.date is not None and len(compared) == 1:
                continue
            said = "expected `present`, or `date` and one of before, on_or_before, after, on_or_after"
            self.problem((*path, "when", i), said)

    def _check_replaces(self, rule: RuleFile, known: ClassFile, path: yaml_lines.Path) -> None:
        found = {other.id: other for other in self.rules_of(known)}
        if rule.replaces and not rule.when:
            self.problem((*path, "replaces"), "expected `when` beside it: a rule always replaced is no rule")
        if rule.replaces and known.combine is Combine.ANY:
            self.problem((*path, "replaces"), f"expected combine: all in class {known.id}, found any")
        for i, other in enumerate(rule.replaces):
            if other not in found:
                self.problem((*path, "replaces", i), f"class {known.id} has no rule {other}")
            elif rule.id == other or rule.id in _reached(other, found):
                self.problem((*path, "replaces", i), f"{rule.id} and {other} would replace each other")


def _ancestors(class_id: str, parents: dict[str, str | None]) -> set[str]:
    found: set[str] = set()
    parent = parents.get(class_id)
    while parent is not None and parent not in found:
        found.add(parent)
        parent = parents.get(parent)
    return found


def _reached(rule_id: str, found: dict[str, RuleFile]) -> set[str]:
    """Rules that `rule_id` replaces, directly or through another."""
    reached: set[str] = set()
    waiting = [rule_id]
    while waiting:
        current = found.get(waiting.pop())
        fresh = set(current.replaces) - reached if current else set()
        reached |= fresh
        waiting += fresh
    return reached


def _replaced(rule: RuleFile, found: Iterable[RuleFile]) -> bool:
    return any(rule.id in other.replaces for other in found)


def _longer(period: str, ceiling: str) -> bool:
    """Whether `period` ends after `ceiling` from some day of a leap year and the three after it."""
    floor, most = rules.parse_period(period), rules.parse_period(ceiling)
    days = (date(2000, 1, 1) + timedelta(n) for n in range(1461))
    return any(floor.after(day) > most.after(day) for day in days)


def _worded(place: yaml_lines.Path, error: Any, model: type[BaseModel]) -> tuple[yaml_lines.Path, str]:
    """pydantic's error in our words: expected, found, what next."""
    kind, given, context = error["type"], error.get("input"), error.get("ctx", {})
    if kind == "missing":
        return place, "expected, and missing"
    if kind == "extra_forbidden":
        return place, _unknown(str(place[-1]), _fields(model, error["loc"]))
    said = {
        "value_error": str(context.get("error")),
        "enum": f"expected {context.get('expected')}",
        "literal_error": f"expected {context.get('expected')}",
        "string_type": "expected text",
        "list_type": "expected a list",
        "dict_type": "expected a map",
        "model_type": "expected a map",
        "bool_type": "expected true or false",
        "bool_parsing": "expected true or false",
        "too_long": f"expected at most {context.get('max_length')} entries",
        "too_short": f"expected at least {context.get('min_length')} entries",
        "string_pattern_mismatch": f"expected text of the form {context.get('pattern')}",
    }.get(kind, str(error["msg"]).replace("Input should be", "expected"))
    hint = " (put it in quotes)" if kind == "string_type" and isinstance(given, int | bool) else ""
    shown = f"{len(given)}" if kind in {"too_long", "too_short"} and isinstance(given, list) else _shown(given)
    return place, f"{said}, found {shown}{hint}"


def _fields(model: type[BaseModel], location: tuple[Any, ...]) -> set[str]:
    """Names of the fields where an unknown one was found, by walking the JSON Schema of the model."""
    schema: Any = model.model_json_schema()
    definitions = schema.get("$defs", {})
    places = [schema]
    for part in location[:-1]:
        following: list[Any] = []
        for place in places:
            inner = place.get("items") if isinstance(part, int) else place.get("properties", {}).get(part)
            inner = inner or place.get("additionalProperties") or place
            if isinstance(inner, dict):
                following.append(inner)
        places = [found for place in following for found in _resolved(place, definitions)]
    return {name for place in places for name in place.get("properties", {})}


def _resolved(place: dict[str, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    options = place.get("anyOf") or place.get("oneOf") or [place]
    return [definitions[o["$ref"].rsplit("/", 1)[-1]] if "$ref" in o else o for o in options]


def _unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    meant = f"did you mean {near[0]}?" if near else "known are " + ", ".join(sorted(known))
    return f"unknown field {name!r}; {meant}"


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a map" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}…"

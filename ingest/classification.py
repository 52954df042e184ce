"""Classification: which record class a document belongs to, by the ordered match rules of the schedule.

Rules of this module:
- Pure: extraction, source, place and schedule in, class and the rule that matched out. No IO, no clock.
- The first match in the order of the file decides. Nothing matches: `unclassified`, kept and listed. Where a
  document says nothing, a condition on it does not hold; a doubt is never a match.
- Phrases are whole words, compared without case, niqqud, kinds of quotation marks and spacing. A Hebrew phrase
  may carry the letters that Hebrew writes onto its first word (ו ה ב כ ל מ ש), at most two of them.
- The work is bounded: only the first `TEXT_CHARS` characters are read, and patterns are bounded
  (retention.schedule.patterns), so no document can make its classification run for ever.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache

from ingest.model import Extraction, Json
from retention.engine import civil_date
from retention.model import UNCLASSIFIED
from retention.rules import FieldMatch, Match, RecordClass, Schedule
from retention.schedule.patterns import bounded

TEXT_CHARS = 200_000
HEADING_LINES = 3
HEADING_CHARS = 200  # of each of those lines

NO_RULE = "none"


def classify(extraction: Extraction, source: str, place: str, schedule: Schedule) -> tuple[str, str]:
    """The id of the class and of the match rule that decided; (`unclassified`, `none`) if nothing matches."""
    seen = _Seen(extraction, source, place)
    for known in schedule.classes:
        for match in known.match:
            if _matches(match, seen):
                return known.id, match.id
    return UNCLASSIFIED, NO_RULE


def document_date(
    metadata: Mapping[str, Json], record_class: RecordClass, received: date, zone: str = "UTC"
) -> date | None:
    """The date of a document by rule 6 of the engine; None is unknown, and then the trigger is missing.

    The first of the fields that the class names which holds a date not before the class's `earliest` and not
    after `received`. A date with an offset becomes the civil date in `zone`; one without is taken as it stands.
    """
    for name in record_class.document_date.fields:
        found = _date(metadata.get(name), zone)
        if found is not None and record_class.document_date.earliest <= found <= received:
            return found
    return None


def _date(value: Json, zone: str) -> date | None:
    if not isinstance(value, str):
        return None
    try:
        if len(value) == len("2026-01-31"):
            return date.fromisoformat(value)
        instant = datetime.fromisoformat(value)
        return instant.date() if instant.tzinfo is None else civil_date(instant, zone)
    except (ValueError, OverflowError):  # no date, or one whose civil date is outside the calendar
        return None


@dataclass(slots=True)
class _Seen:
    """What the conditions look at, each prepared when it is first asked for."""

    extraction: Extraction
    source: str
    place: str
    _heading: str | None = None
    _text: str | None = None

    @property
    def raw(self) -> str:
        return self.extraction.text[:TEXT_CHARS]

    @property
    def text(self) -> str:
        if self._text is None:
            self._text = _normal(self.raw)
        return self._text

    @property
    def heading(self) -> str:
        """The title, the subject, the name of the file and the first lines, one beside the other."""
        if self._heading is None:
            stem = self.extraction.name.rpartition(".")[0] or self.extraction.name
            lines = (line.strip()[:HEADING_CHARS] for line in self.raw[: 20 * HEADING_CHARS].splitlines())
            first = [line for line in lines if line][:HEADING_LINES]
            said = [self.said("title"), self.said("subject"), re.sub(r"[_\-.+]", " ", stem), stem, *first]
            self._heading = " | ".join(_normal(part) for part in said if part)
        return self._heading

    def said(self, name: str) -> str:
        value = self.extraction.metadata.get(name)
        if isinstance(value, list):
            return " ".join(str(item) for item in value)
        return "" if value is None else str(value)


def _matches(match: Match, seen: _Seen) -> bool:
    """Whether every condition that is given holds; the cheap ones first."""
    extraction = seen.extraction
    return (
        (not match.source or _glob(match.source, seen.source))
        and (not match.path or _glob(match.path, seen.place) or _glob(match.path, extraction.name))
        and (not match.mime or _glob(match.mime, extraction.identification.mime))
        and (not match.extension or _same(match.extension, extraction.name.rpartition(".")[2]))
        and (not match.language or _same(match.language, seen.said("language")))
        and (not match.sender or _glob(match.sender, seen.said("from")))
        and all(_field(condition, seen) for condition in match.metadata)
        and (not match.heading or _any_phrase(match.heading, seen.heading))
        and (not match.text or _any_phrase(match.text, seen.text))
        and all(_any_phrase((phrase,), seen.text) for phrase in match.text_all)
        and not (match.text_none and _any_phrase(match.text_none, seen.text))
        and (not match.regex or _pattern(match.regex).search(seen.raw) is not None)
    )


def _glob(globs: tuple[str, ...], value: str) -> bool:
    return bool(value) and _globs(globs).fullmatch(value) is not None


@lru_cache(maxsize=4096)
def _globs(globs: tuple[str, ...]) -> re.Pattern[str]:
    """`*` is any run of characters, `?` is one; everything else is itself. Consecutive stars are one, and each
    run is atomic up to its next literal, so that the work is linear."""
    return re.compile("|".join(f"(?:{_one_glob(glob)})" for glob in globs), re.IGNORECASE | re.DOTALL)


def _one_glob(glob: str) -> str:
    first, *rest = (
        "".join("." if char == "?" else re.escape(char) for char in part) for part in re.split(r"\*+", glob)
    )
    if not rest:
        return first
    middle = "".join(f"(?>.*?{part})" for part in rest[:-1] if part)
    return f"{first}{middle}.*{rest[-1]}"


def _same(allowed: Iterable[str], value: str) -> bool:
    return value.casefold() in {entry.casefold().lstrip(".") for entry in allowed}


def _field(condition: FieldMatch, seen: _Seen) -> bool:
    value = seen.said(condition.field)
    if not value:
        return False
    if condition.equals is not None:
        return _normal(value) == _normal(condition.equals)
    if condition.contains is not None:
        return _normal(condition.contains) in _normal(value)
    return condition.regex is not None and _pattern(condition.regex).search(value[:TEXT_CHARS]) is not None


_pattern = lru_cache(maxsize=1024)(bounded)


def _any_phrase(phrases: tuple[str, ...], text: str) -> bool:
    # Looking for the bare characters first costs a tenth of the pattern, and nearly always answers no.
    return any(phrase in text for phrase in _normal_all(phrases)) and _phrases(phrases).search(text) is not None


@lru_cache(maxsize=4096)
def _normal_all(phrases: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_normal(phrase) for phrase in phrases)


@lru_cache(maxsize=4096)
def _phrases(phrases: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(_normal_all(phrases), key=len, reverse=True)
    return re.compile("|".join(_one_phrase(phrase) for phrase in longest_first))


def _one_phrase(phrase: str) -> str:
    """A phrase as whole words; an edge that is no word character (₪, an abbreviation mark) asks for no edge."""
    begin = r"(?<!\w)" if phrase[:1].isalnum() else ""
    prefix = "[והבכלמש]{0,2}" if "\u05d0" <= phrase[:1] <= "\u05ea" else ""
    end = r"(?!\w)" if phrase[-1:].isalnum() else ""
    return f"{begin}{prefix}{re.escape(phrase)}{end}"


_MARKS = {ord(mark): '"' for mark in "״“”„‟"} | {ord(mark): "'" for mark in "׳‘’‚‛`´"} | {ord("־"): "-"}
_DIRECTION = dict.fromkeys((*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF, 0xAD))
_PLAIN = _MARKS | _DIRECTION


def _normal(text: str) -> str:
    """Without case, niqqud and direction marks; one space for any spacing; straight quotation marks."""
    if text.isascii():
        text = text.replace("`", "'")  # the only one of the marks that is ASCII
    elif not (text := text.translate(_PLAIN)).isascii():
        text = unicodedata.normalize("NFKC", text)
        text = re.sub("[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]", "", text)
        text = text.replace("''", '"')
    return " ".join(text.casefold().split())

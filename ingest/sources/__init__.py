"""Sources: where documents come from. One module a protocol; the source file says what is read when.

Rules of this package:
- A protocol is one new file and one new line of `PROTOCOLS`: the module `ingest.sources.<name>` with the
  three functions of `SourceModule`. Modules, and the libraries that they need, are imported when first used.
- Everything that a source holds is listed, or said to `left_out` with the reason: a file that cannot be
  read is listed, and `open` says why. Nothing is dropped in silence.
- The workspace is never a source: it holds the root key, the spool and the records themselves.
- `discover` yields in the same order each time, and reads no content. The original is never changed.
- `open` raises NotFound for what is gone, Unreadable for what the source will not give, and never hangs
  on what is no document. A source that does not answer is ServiceUnavailable; one that was named wrongly
  is UsageError. No other error leaves a protocol's module.
- Credentials come from the environment. In the source file, or in a URL, they are refused, and a message
  never repeats them.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, Protocol, cast
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ingest.model import Json, SourceFile
from retention.errors import MunimentError, UsageError
from retention.schedule import yaml_lines

# Scheme of a source's URL -> module of this package.
PROTOCOLS: Mapping[str, str] = {"file": "folder", "s3": "s3"}

# What programs leave beside documents: hidden files, half-written ones, the droppings of desktops.
DEFAULT_EXCLUDE = (
    *(".*", "~$*", "*~", "*.tmp", "*.temp", "*.part", "*.partial", "*.crdownload", "*.swp"),
    *("Thumbs.db", "desktop.ini"),
)
DEFAULT_SETTLE_SECONDS = 5.0
DEFAULT_MAX_BYTES = 512 * 1024 * 1024
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
SECRET = re.compile(r"pass|secret|token|credential|signature|auth|(^|[_-])(key|user|login)", re.IGNORECASE)


class Unreadable(MunimentError, OSError):
    """The source holds it and will not give its bytes; its owner must act. `strerror` says why, without the place.

    An OSError too: whoever copies a stream takes it for a fault of the document, and need know no source."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.strerror = reason


class Why(StrEnum):
    """Why something that a source holds is not a document of this run."""

    UNSETTLED = "unsettled"  # still being written; the next run takes it
    EXCLUDED = "excluded"  # by a pattern of the source
    LINK = "link"  # a symbolic link is never followed
    MARKER = "marker"  # an empty object that only stands for a folder
    WORKSPACE = "workspace"  # the workspace itself is never a source: it holds the keys


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that was seen and not listed. For a folder `place` ends with "/", and means all below it."""

    source: str
    place: str
    why: Why


def _cron(text: str) -> str:
    """Five fields of numbers, ranges, lists and steps, within the bounds of crontab(5)."""
    bounds = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
    fields = text.split()
    if len(fields) != len(bounds):
        raise ValueError(f"expected a cron line of five fields such as '0 2 * * 1', found {text!r}")
    for number, (field, (low, high)) in enumerate(zip(fields, bounds, strict=True), start=1):
        for part in field.split(","):
            match = re.fullmatch(r"(\*|(\d{1,2})(?:-(\d{1,2}))?)(?:/([1-9]\d?))?", part)
            numbers = [int(found) for found in match.group(2, 3) if found] if match else []
            if match is None or any(not low <= found <= high for found in numbers) or numbers != sorted(numbers):
                raise ValueError(f"field {number}: expected numbers from {low} to {high}, found {part!r}")
    return text


class SourceConfig(BaseModel):
    """One source: an entry of the source file, or what `ingest PATH` stands for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    url: str  # normalised by its protocol: file:///folder, s3://bucket/prefix?endpoint=…
    schedule: str | None = None  # cron, in the time zone of the scheduler; None: only when asked
    paused: bool = False
    profile: str = "default"  # of ingest.validation.PROFILES
    max_bytes: Annotated[int, Field(gt=0)] = DEFAULT_MAX_BYTES  # a larger file is rejected as TOO-LARGE
    include: tuple[str, ...] = ()  # none: everything. Patterns of the shell, in any case of letters
    exclude: tuple[str, ...] = DEFAULT_EXCLUDE
    settle_seconds: Annotated[float, Field(ge=0, le=86_400)] = DEFAULT_SETTLE_SECONDS
    after: Literal["keep"] = "keep"  # what becomes of the original

    @field_validator("schedule")
    @classmethod
    def _schedule(cls, value: str | None) -> str | None:
        return value if value is None else _cron(value)


class SourceModule(Protocol):
    """What the module of a protocol offers. `after` is what the source remembered of the last run, if any."""

    def address(self, url: str, base: Path) -> str:
        """The URL in its one normal form; relative paths are below `base`. Raises ValueError."""
        ...

    def discover(
        self,
        config: SourceConfig,
        after: Json,
        now: datetime,
        left_out: Callable[[LeftOut], None],
        never: Path | None = None,
    ) -> Iterator[SourceFile]:
        """What the source holds. Raises UsageError or ServiceUnavailable at once, not at the first item."""
        ...

    def open(self, config: SourceConfig, file: SourceFile) -> BinaryIO:
        """The bytes, streamed. Raises NotFound, Unreadable, ServiceUnavailable."""
        ...


def discover(
    config: SourceConfig,
    after: Json = None,
    *,
    now: datetime,
    left_out: Callable[[LeftOut], None] = lambda _: None,
    never: Path | None = None,
) -> Iterator[SourceFile]:
    """List what a source holds; `now` (UTC) is what a file's age is measured against.

    `never` is the workspace: a folder that is not looked into, whatever path leads to it. Raises UsageError
    where the source does not exist, may not be listed or is inside `never`, ServiceUnavailable where it does
    not answer. What is seen and not listed is told to `left_out`.
    """
    return _protocol(config.url).discover(config, after, now, left_out, never)


def open(config: SourceConfig, file: SourceFile) -> BinaryIO:
    """The bytes of a listed file. Raises NotFound, Unreadable, ServiceUnavailable; never hangs on a device."""
    return _protocol(config.url).open(config, file)


def excluded(config: SourceConfig, place: str, *, folder: bool = False) -> bool:
    """True if the patterns of the source leave `place` out. A folder is left out by `exclude` alone.

    A pattern with "/" is held against the whole place, any other against the last part of it: a folder that
    is left out is not looked into, so its parts need no second look. S3 asks for each part.
    """
    whole = place.rstrip("/").lower()
    last = whole.rpartition("/")[2]

    def matches(pattern: str) -> bool:
        return fnmatchcase(whole if "/" in pattern else last, pattern.lower())

    if any(map(matches, config.exclude)):
        return True
    return bool(config.include) and not folder and not any(map(matches, config.include))


def source_at(path_or_url: str, base: Path) -> SourceConfig:
    """The source that `ingest PATH-OR-URL` names: all that is there, now. Its name is its place.

    Relative paths are below `base`. Raises UsageError for a URL that no protocol reads.
    """
    try:
        url = _address(path_or_url, base)
    except ValueError as error:
        raise UsageError(f"ingest: {error}") from None
    name = path_or_url if "://" in path_or_url else str(Path(base, path_or_url).absolute())
    return SourceConfig(name=name, url=url, exclude=(), settle_seconds=0)


def load_sources(path: Path, profiles: Collection[str] = ()) -> tuple[SourceConfig, ...]:
    """The sources of a source file, in its order. Raises UsageError with every mistake, each with its line.

    `profiles`, where given, are the names that `profile` may have.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"source file {path} does not exist; expected a YAML list under 'sources'") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"source file {path} cannot be read: {error}") from None
    document = yaml_lines.read(text)
    problems = [(error.line, error.message) for error in document.errors]
    entries = document.data.get("sources") if isinstance(document.data, dict) else None
    if not problems and not isinstance(entries, list):
        problems.append((document.line(("sources",)), "expected 'sources:' and below it a list"))
    if isinstance(document.data, dict):
        problems += [
            (document.line((key,)), f"{key}: not known here; expected only 'sources'")
            for key in document.data
            if key != "sources"
        ]
    configs: list[SourceConfig] = []
    names: dict[str, int] = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        here: yaml_lines.Path = ("sources", number)
        config, wrong = _entry(entry, path.absolute().parent, profiles)
        problems += [(document.line((*here, *where)), message) for where, message in wrong]
        if config is not None:
            line = document.line((*here, "name"))
            if config.name in names:
                first = names[config.name]
                problems.append((line, f"name: {config.name!r} is taken by the source of line {first}"))
            names.setdefault(config.name, line)
            configs.append(config)
    if problems:
        raise UsageError("\n".join(f"{path}:{line}: {message}" for line, message in sorted(problems)))
    return tuple(configs)


_Problems = list[tuple[tuple[str | int, ...], str]]


def _entry(entry: yaml_lines.Data, base: Path, profiles: Collection[str]) -> tuple[SourceConfig | None, _Problems]:
    """One entry of the list as a source, or what is wrong with it; values of secrets are not repeated."""
    if not isinstance(entry, dict):
        return None, [((), "expected a map with 'name' and 'url'")]
    wrong: _Problems = []
    for key in entry:
        if key not in SourceConfig.model_fields and SECRET.search(key):
            wrong.append(((key,), f"{key}: refusing to read a credential from a file. {FROM_ENVIRONMENT}"))
    given: dict[str, object] = {key: value for key, value in entry.items() if ((key,)) not in dict(wrong)}
    if isinstance(entry.get("url"), str):
        try:
            given["url"] = _address(cast(str, entry["url"]), base)
        except ValueError as error:
            wrong.append((("url",), f"url: {error}"))
    name, after, profile = entry.get("name"), entry.get("after", "keep"), entry.get("profile", "default")
    if isinstance(name, str) and not NAME.fullmatch(name):
        wrong.append((("name",), f"name: expected at most 63 of a-z, 0-9 and '-', found {name!r}"))
    if profiles and profile not in profiles:
        wrong.append((("profile",), f"profile: expected one of {', '.join(profiles)}, found {profile!r}"))
    if after in ("move", "delete"):
        given.pop("after")
        said = "is not offered yet; expected 'keep': originals stay where they are"
        wrong.append((("after",), f"after: {after!r} {said}"))
    try:
        config = SourceConfig.model_validate(given)
    except ValidationError as error:
        wrong += [(item["loc"], _said(item["loc"], item["msg"], item["type"])) for item in error.errors()]
        return None, wrong
    return (config if not wrong else None), wrong


def _said(where: tuple[str | int, ...], message: str, kind: str) -> str:
    key = ".".join(map(str, where))
    if kind == "extra_forbidden":
        return f"{key}: not known; expected one of {', '.join(SourceConfig.model_fields)}"
    return f"{key}: {message.removeprefix('Value error, ')}"


FROM_ENVIRONMENT = "Give credentials in the environment (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)."


def _address(url: str, base: Path) -> str:
    """The normal form of a URL or path. Raises ValueError, whose text holds no credential."""
    if not url:  # joined to the base it would mean all that is there
        raise ValueError("expected a path or URL, found an empty one")
    parts = urlsplit(url) if "://" in url else urlsplit("file:")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"refusing to use a URL that holds a user or password. {FROM_ENVIRONMENT}")
    secrets = [key for key, _ in parse_qsl(parts.query, keep_blank_values=True) if SECRET.search(key)]
    if secrets:
        raise ValueError(f"refusing to use a URL that holds {secrets[0]!r}. {FROM_ENVIRONMENT}")
    if parts.scheme not in PROTOCOLS:
        known = ", ".join(f"{scheme}://" for scheme in PROTOCOLS)
        raise ValueError(f"expected a path or one of {known}, found {parts.scheme}://")
    return _module(parts.scheme).address(url, base)


def _protocol(url: str) -> SourceModule:
    return _module(urlsplit(url).scheme)


def _module(scheme: str) -> SourceModule:
    return cast(SourceModule, importlib.import_module(f"ingest.sources.{PROTOCOLS[scheme]}"))

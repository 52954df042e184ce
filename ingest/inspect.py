"""What extraction sees in files and folders, without admitting anything.

Rules of this module:
- Files are read where they are, by the same workers and readers as ingestion; nothing is copied, written or
  remembered.
- Everything below a folder that is no folder gets its line, in order of name; what cannot be read gets a
  finding. Symbolic links are followed to files, never into folders.
- Names are text by surrogateescape: write them as JSON with ASCII escapes, and the bytes can be had back.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ingest.classification import classify
from ingest.extraction.workers import Workers
from ingest.model import Extraction, Json
from retention.errors import UsageError
from retention.rules import Schedule


def inspect(paths: Iterable[Path], workers: Workers, schedule: Schedule) -> Iterator[dict[str, Json]]:
    """One dict a file (docs of the command line: `inspect`), in the order in which they are done.

    `path` is as given, or below the folder given. Raises UsageError for an argument that does not exist;
    a file that vanishes later is a finding.
    """
    given = [*paths]
    for path in given:
        if not os.path.lexists(path):
            raise UsageError(f"{path}: expected a file or folder, found nothing. Check the name.")
    with tempfile.TemporaryDirectory(prefix="muniment-inspect-") as scratch:
        items = ((path, path, path.name) for argument in given for path in files(argument))
        for path, extraction in workers.extract_all(items, Path(scratch)):
            class_id, rule = classify(extraction, "inspect", str(path), schedule)
            yield {"path": str(path), **described(extraction), "class_id": class_id, "rule": rule}


def files(path: Path) -> Iterator[Path]:
    """`path` itself, or everything below it that is no folder, in order of name (bytewise)."""
    if not path.is_dir():
        yield path
        return
    for folder, subfolders, names in os.walk(path):
        subfolders.sort(key=os.fsencode)
        links = [name for name in subfolders if Path(folder, name).is_symlink()]
        yield from (Path(folder, name) for name in sorted(names + links, key=os.fsencode))


def described(extraction: Extraction) -> dict[str, Json]:
    """The keys of one document, and of its children under `children`, where `path` is the child's name."""
    identification = extraction.identification
    return {
        "mime": identification.mime,
        "extension_mime": identification.extension_mime,
        "puid": identification.puid,
        "sha256": extraction.sha256.hex(),
        "bytes": extraction.size,
        "metadata": dict(extraction.metadata),
        "text_chars": len(extraction.text),
        "text": extraction.text,
        "children": [{"path": child.name, **described(child)} for child in extraction.children],
        "findings": [
            {"code": item.code, "severity": item.severity.value, "message": item.message}
            for item in extraction.findings
        ],
        "seconds": extraction.seconds,
    }

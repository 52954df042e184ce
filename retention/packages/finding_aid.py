"""The finding aid of a package: a line for every file, and what is known of a record, as others read it.

Rules of this module:
- Values only: no IO. `row` follows the minimum elements of NARA Bulletin 2015-04, appendix A (File Name, Record ID,
  Title, Description, Creator, Creation Date, Rights, Coverage, Relation); what is not known is empty, never guessed.
- A cell holds no line break and no NUL; one with a pipe or a quote is quoted as RFC 4180 has it, by the csv module.
- A cell that a person filled and a spreadsheet would take for a formula begins with an apostrophe (OWASP, *CSV
  injection*). File names and paths need none: `safe_name` lets none begin so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from retention.descriptors import plain_json, printable
from retention.model import Description
from retention.packages.bags import File
from retention.packages.record_files import Source
from retention.rules import RecordClass, Rule

COLUMNS = (
    "File Name",
    "File Path",
    "Record ID",
    "Record Schedule Item",
    "Title",
    "Description",
    "Creator",
    "Creation Date",
    "Access Rights",
    "Retention Authority",
    "Coverage",
    "Relation",
    "Format",
    "PUID",
    "Size",
    "SHA-256",
    "SHA-512",
    "Original Name",
    "Original Path",
    "Role",
)


_BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")
_FORMULA = ("=", "+", "-", "@")


def descriptive(description: Description) -> dict[str, str]:
    """What of a description serves as an element of NARA's; an element that is not known is left out."""
    metadata = description.metadata
    created = metadata.get("created") or (description.modified and description.modified.isoformat())
    found = {
        "Title": description.title or description.name,
        "Description": metadata.get("subject"),
        "Creator": description.author,
        "Creation Date": created,
        "Coverage": metadata.get("coverage"),
        "Format": description.mime,
        "PUID": description.puid,
        "Original Name": description.name,
        "Original Path": description.place,
    }
    return {name: cell(str(value)) for name, value in found.items() if value}


def row(
    file: File,
    role: str,
    source: Source,
    description: Description,
    record_class: RecordClass | None,
    rules: Sequence[Rule],
) -> list[str]:
    """One line of nara.psv, in the order of COLUMNS."""
    found = descriptive(description)
    if role != "native":
        found |= {"Format": "text/plain" if role == "text" else "application/json", "PUID": ""}
    if source.document_date is not None and not description.metadata.get("created"):
        found["Creation Date"] = source.document_date.isoformat()
    if record_class is not None:
        found.setdefault("Description", cell(record_class.title()))
        found["Access Rights"] = "restricted: personal data" if record_class.personal_data is not None else ""
    whole = [f"is part of {one}" for one in (source.parent_id, source.aggregation_id) if one is not None]
    citations = dict.fromkeys(f"{rule.authority.citation} ({rule.authority.jurisdiction})" for rule in rules)
    found |= {
        "File Name": file.path.rpartition("/")[2],
        "File Path": file.path,
        "Record ID": str(source.record_id),
        "Record Schedule Item": source.class_id,
        "Retention Authority": cell("; ".join(citations)),
        "Relation": "; ".join(whole),
        "Size": str(file.size),
        "SHA-256": file.sha256.hex(),
        "SHA-512": file.sha512.hex(),
        "Role": role,
    }
    return [found.get(column, "") for column in COLUMNS]


def cell(text: str) -> str:
    """`text` on one line, and harmless in a spreadsheet."""
    line = _BREAKS.sub(" ", printable(text)).strip()
    return f"'{line}" if line.startswith(_FORMULA) else line


def known(source: Source, description: Description) -> dict[str, Any]:
    """What is known of a record, as JSON can say it, for a production."""
    found = {
        "record_id": str(source.record_id),
        "class": source.class_id,
        "labels": list(source.labels),
        "received": source.received.isoformat(),
        "document_date": source.document_date and source.document_date.isoformat(),
        "aggregation": source.aggregation_id and str(source.aggregation_id),
        "parent": source.parent_id and str(source.parent_id),
        "name": description.name,
        "source": description.source,
        "place": description.place,
        "title": description.title,
        "author": description.author,
        "mime": description.mime,
        "puid": description.puid,
        "language": description.language,
        "sha256": description.sha256 and description.sha256.hex(),
        "modified": description.modified and description.modified.isoformat(),
        "metadata": description.metadata,
        "findings": [{"code": f.code, "severity": f.severity, "message": f.message} for f in description.findings],
    }
    return {name: plain_json(value) for name, value in found.items()}

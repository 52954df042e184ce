"""How far `inspect` agrees with what is known of the open corpus (../shared/corpus/TRUTH.jsonl).

    python tests/bench/score_truth.py [--corpus FOLDER] [--show] [--only KIND] [--workers N]

Prints, for each kind and confidence, how many statements inspect agrees with; `--show` lists the others.
Kinds that a later version reads are counted as "later". It measures, and asserts nothing.
"""

from __future__ import annotations

import argparse
import codecs
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import parseaddr
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ingest.extraction.workers import Workers
from ingest.inspect import described, files

Seen = dict[str, Any]
Judge = Callable[[Any, Seen, Path], str]  # "" if agreed, else what was found instead

_DAMAGE = {"DAMAGED", "TRUNCATED", "PDF-DAMAGED-REPAIRED", "MIME-MISMATCH", "METADATA-DAMAGED", "EXPANSION-LIMIT"}


def codes(seen: Seen) -> set[str]:
    return {str(item["code"]) for item in seen["findings"]}


def text_encoding(expected: Any, seen: Seen, path: Path) -> str:
    """Agreed if the encoding is the same codec, or gives the same text (a superset does)."""
    found = seen["metadata"].get("encoding")
    if not found:
        return f"no encoding ({seen['mime']})"
    data = path.read_bytes()
    try:
        same = codecs.lookup(found).name == codecs.lookup(expected["encoding"]).name
        if same or data.decode(found).lstrip("\ufeff") == data.decode(expected["encoding"]).lstrip("\ufeff"):
            return ""
    except (LookupError, UnicodeDecodeError):
        pass
    return f"{found}, expected {expected['encoding']}"


def _moment(text: object) -> str:
    if not isinstance(text, str):
        return ""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None).isoformat()
    except ValueError:
        return text


def pdf_metadata(expected: Any, seen: Seen, _: Path) -> str:
    metadata = seen["metadata"]
    locked = metadata.get("password_needed")
    wrong = []
    for key in ("producer", "pages", "images"):
        if key in expected and metadata.get(key) != expected[key] and not locked:
            wrong.append(f"{key} {metadata.get(key)!r}, expected {expected[key]!r}")
    if bool(metadata.get("encrypted")) != expected["encrypted"]:
        wrong.append(f"encrypted {metadata.get('encrypted')}")
    if bool(metadata.get("forms")) != bool(expected["forms"]) and not locked:
        wrong.append(f"forms {metadata.get('forms')!r}, expected {expected['forms']!r}")
    if not locked and _moment(metadata.get("created")) != _moment(expected["creation_date"]):
        wrong.append(f"created {metadata.get('created')}, expected {expected['creation_date']}")
    return "; ".join(wrong)


def pdf_password(expected: Any, seen: Seen, _: Path) -> str:
    metadata, found = seen["metadata"], codes(seen)
    if bool(metadata.get("encrypted")) != expected["encrypted"]:
        return f"encrypted {metadata.get('encrypted')}, expected {expected['encrypted']}; {sorted(found)}"
    if not expected["encrypted"]:
        return ""
    needed = bool(expected["user_password"])
    if bool(metadata.get("password_needed")) != needed or ("PDF-ENCRYPTED" in found) != needed:
        return f"password needed {metadata.get('password_needed')}, expected {needed}"
    return ""


def pdf_defect(_: Any, seen: Seen, __: Path) -> str:
    return "" if codes(seen) & (_DAMAGE | {"TEXT-EMPTY"}) else f"no finding: {sorted(codes(seen))}"


def zip_open_result(expected: Any, seen: Seen, _: Path) -> str:
    """Archives are not unpacked yet; whether one is whole is asked now."""
    damaged = bool(codes(seen) & {"DAMAGED", "TRUNCATED", "EXPANSION-LIMIT", "MIME-MISMATCH"})
    return "" if damaged != expected["consistent"] else f"{sorted(codes(seen))}, libzip: {expected['libzip']}"


def mail_category(_: Any, seen: Seen, __: Path) -> str:
    if seen["mime"] not in ("message/rfc822", "application/mbox"):
        return str(seen["mime"])
    known = seen["metadata"].keys() & {"from", "to", "title", "message_id", "date", "parts"}
    lost = codes(seen) & {"EXTRACTION-CRASHED", "TIME-LIMIT", "MEMORY-LIMIT"}
    return "" if known and not lost else f"headers {sorted(known)} findings {sorted(lost)}"


def mbox_message_count(expected: Any, seen: Seen, _: Path) -> str:
    found = seen["metadata"].get("messages")
    return "" if found == expected["messages"] else f"{found} ({seen['mime']}), expected {expected['messages']}"


def _addresses(value: Any) -> set[str]:
    values = value if isinstance(value, list) else [value] if value else []
    return {parseaddr(part)[1].lower() or part.strip().lower() for one in values for part in re.split(r"[,;]", one)}


def mail_headers(expected: Any, seen: Seen, _: Path) -> str:
    metadata, wrong = seen["metadata"], []
    if (metadata.get("title") or "").strip() != (expected["subject"] or "").strip():
        wrong.append(f"subject {metadata.get('title')!r}")
    for key in ("from", "to"):
        if _addresses(metadata.get(key)) != _addresses(expected[key]):
            wrong.append(f"{key} {metadata.get(key)!r}, expected {expected[key]!r}")
    names = sorted(child["path"] for child in seen["children"])
    if names != sorted(expected["attachments"]):
        wrong.append(f"attachments {names}, expected {expected['attachments']}")
    return "; ".join(wrong)


def extracted_text(expected: Any, seen: Seen, _: Path) -> str:
    """Agreed if nine of ten words are found (ligatures, hyphens and spaces are each program's own)."""
    words = Counter(re.findall(r"\w+", expected["text"].lower()))
    found = Counter(re.findall(r"\w+", seen["text"].lower()))
    total = sum(words.values())
    common = sum((words & found).values())
    return "" if total and common >= 0.9 * total else f"{common} of {total} words"


def hostile(_: Any, seen: Seen, __: Path) -> str:
    lost = codes(seen) & {"EXTRACTION-CRASHED"}
    return f"{sorted(lost)}" if lost else ""


JUDGES: Mapping[str, Judge] = {
    judge.__name__: judge
    for judge in (
        text_encoding,
        pdf_metadata,
        pdf_password,
        pdf_defect,
        zip_open_result,
        mail_category,
        mbox_message_count,
        mail_headers,
        extracted_text,
        hostile,
    )
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    arguments.add_argument("--corpus", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "corpus")
    arguments.add_argument("--show", action="store_true", help="list what is not agreed")
    arguments.add_argument("--only", help="one kind")
    arguments.add_argument("--workers", type=int)
    arguments.add_argument("--dump", type=Path, help="also write what inspect saw, as JSON lines")
    chosen = arguments.parse_args()
    truths = [json.loads(line) for line in (chosen.corpus / "TRUTH.jsonl").read_text().splitlines()]
    began = time.monotonic()
    with Workers(count=chosen.workers) as workers, tempfile.TemporaryDirectory() as scratch:
        items = ((path.relative_to(chosen.corpus).as_posix(), path, path.name) for path in files(chosen.corpus))
        seen: dict[str, Seen] = {
            place: {"path": place, **described(extraction)}
            for place, extraction in workers.extract_all(items, Path(scratch))
        }
    wall = time.monotonic() - began
    if chosen.dump:
        chosen.dump.write_text("".join(json.dumps(one) + "\n" for one in seen.values()))
    agreed: Counter[tuple[str, str]] = Counter()
    total: Counter[tuple[str, str]] = Counter()
    for truth in truths:
        kind = (truth["kind"], truth["confidence"])
        if chosen.only and truth["kind"] != chosen.only:
            continue
        total[kind] += 1
        judge = JUDGES.get(truth["kind"])
        if judge is None:
            continue
        wrong = judge(truth["expected"], seen[truth["path"]], chosen.corpus / truth["path"])
        agreed[kind] += not wrong
        if wrong and chosen.show:
            print(f"{truth['kind']}\t{truth['path']}\t{wrong}")
    print(f"\n{'kind':24}{'confidence':12}{'agreed':>8}{'of':>6}")
    for name, confidence in sorted(total):
        score = f"{agreed[name, confidence]:>8}" if name in JUDGES else f"{'later':>8}"
        print(f"{name:24}{confidence:12}{score}{total[name, confidence]:>6}")
    counts = Counter(code for one in seen.values() for code in codes(one))
    children = sum(len(one["children"]) for one in seen.values() if isinstance(one["children"], list))
    print(f"\n{len(seen):,} files, {children:,} children, {wall:.1f} s;", dict(counts.most_common()))


if __name__ == "__main__":
    main()

"""The ledger: every state change is one PREMIS event, and the events are the leaves of a Merkle tree.

Rules of this module:
- An event's canonical bytes are RFC 8785 JSON (keys ASCII; values strings, integers below 2^53 in size, booleans,
  null, and lists and objects of them; then `json` with sorted keys gives exactly those bytes), at most 65,535.
- No personal data in an event: random ids, codes, digests of sealed bytes, salted commitments.
- `append` runs inside the transaction that changes the state, as its last act before COMMIT: hashes are made
  first, then the one-row head is locked, so that writers wait for each other as briefly as possible.
  Positions have no gaps: a transaction that fails takes its positions with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import psycopg

from retention import merkle
from retention.tlog.tiles import MAX_ENTRY

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class Agent:
    """Who did it: software with its version, on whose behalf. Ids are pseudonyms (table pseudonyms)."""

    id: UUID
    on_behalf_of: UUID | None
    version: str


@dataclass(frozen=True, slots=True)
class Event:
    """A PREMIS event. `type` is a code of the PREMIS event type vocabulary (ing, qua, poa, ...)."""

    type: str
    time: datetime
    agent: Agent
    subjects: tuple[UUID, ...]
    outcome: str = "success"
    detail: Mapping[str, Any] = field(default_factory=dict)


def canonical(event: Event) -> bytes:
    """The entry bytes of an event. Raises ValueError for what RFC 8785 or the ledger cannot hold.

    Its members stand here in the order of RFC 8785. Who and when are the same in a batch, and are written once."""
    detail = dict(event.detail)
    _check(detail)
    subjects = ",".join([f'"{subject}"' for subject in event.subjects])
    entry = (
        f'{{"agent":{_agent(event.agent)},"detail":{_encode(detail)},"outcome":{_text(event.outcome)},'
        f'"subjects":[{subjects}],"time":"{_time(event.time)}","type":{_text(event.type)}}}'
    ).encode()
    if len(entry) > MAX_ENTRY:
        raise ValueError(f"event {event.type}: {len(entry)} bytes, the ledger holds at most {MAX_ENTRY} an entry")
    return entry


@lru_cache(maxsize=64)
def _agent(agent: Agent) -> str:
    value = {"id": str(agent.id), "version": agent.version}
    if agent.on_behalf_of is not None:
        value["for"] = str(agent.on_behalf_of)
    _check(value)
    return _encode(value)


@lru_cache(maxsize=64)
def _time(time: datetime) -> str:
    return f"{time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _text(value: str) -> str:
    _check(value)
    return _encode(value)


def _check(value: Any) -> None:
    """Only what `json` writes exactly as RFC 8785 does. Plain conditions, the most frequent first: a tenth of an append
    is spent here."""
    if value is None or isinstance(value, (str, bool)):
        return
    if isinstance(value, int) and -(2**53) < value < 2**53:
        return
    if isinstance(value, list):
        for item in value:
            _check(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise ValueError(f"event: keys are ASCII strings, found {key!r}")
            if not isinstance(item, str):
                _check(item)
    else:
        raise ValueError(f"event: {type(value).__name__} {value!r} has no canonical form here")


def append(conn: psycopg.Connection[Any], events: Sequence[Event], recorded_at: datetime) -> int:
    """Append events in order; returns the position of the first. The caller commits, and does nothing between.

    Raises psycopg errors as they come: the transaction is then lost whole, state and events alike."""
    if not events:
        return _head(conn, lock=False)[0]
    entries = [canonical(event) for event in events]
    leaves = [merkle.leaf_hash(entry) for entry in entries]
    first, frontier = _head(conn, lock=True)
    size, frontier = merkle.append(first, frontier, leaves)
    with conn.cursor() as cursor:
        with cursor.copy(
            "COPY events (position, recorded_at, type, leaf_hash, entry) FROM STDIN (FORMAT binary)"
        ) as copy:
            copy.set_types(["int8", "timestamptz", "text", "bytea", "bytea"])
            for offset, (event, leaf, entry) in enumerate(zip(events, leaves, entries, strict=True)):
                copy.write_row((first + offset, recorded_at, event.type, leaf, entry))
        with cursor.copy("COPY event_subjects (subject_id, position) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["uuid", "int8"])
            for offset, event in enumerate(events):
                for subject in dict.fromkeys(event.subjects):
                    copy.write_row((subject, first + offset))
        cursor.execute("UPDATE ledger_head SET size = %s, frontier = %s", (size, frontier))
    return first


def _head(conn: psycopg.Connection[Any], *, lock: bool) -> tuple[int, list[bytes]]:
    query = "SELECT size, frontier FROM ledger_head FOR UPDATE" if lock else "SELECT size, frontier FROM ledger_head"
    row = conn.execute(query).fetchone()
    if row is None:
        raise psycopg.DataError("ledger_head is empty: the catalog was tampered with; restore it from the vault")
    return int(row[0]), [bytes(node) for node in row[1]]


def head(conn: psycopg.Connection[Any]) -> tuple[int, bytes]:
    """Size and root of the tree as committed."""
    size, frontier = _head(conn, lock=False)
    return size, merkle.root(frontier)

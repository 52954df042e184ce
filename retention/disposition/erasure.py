"""Erasure: keys, bytes, then every row that described the record; what stays is its tombstone.

Rules of this module (requirements: storage, *Sealing*, *Residue*; design: *Crash order*):
- It is given records that are `destroying`, which is final. Each of its parts may run again after a crash, and ends
  the same.
- With the row of its key goes what the key sealed: content and descriptor line, in every copy. Tombstone and deletion
  of the key are one transaction. The bytes follow: every version of every object, and the vault is listed again.
- A record is `destroyed` (T2) only when nothing of it, nor its key, is left in the vault; a failure on one stops no
  other.
- Descriptor objects are shared: the line of a destroyed record is unreadable there until the last member is gone.
- An aggregation of which no record is left loses its key too. The dates of what happened to a record or to such an
  aggregation go with it.
- Tombstones hold ids, dates, the rule, digests of sealed bytes and keyed HMACs. A class that wants them descriptive
  gets an annex: title, author and format, sealed under a key of its own. While descriptions are being rebuilt it is
  taken from the sealed line; a record whose line cannot be read keeps its key until it can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from retention import descriptors, ledger, locked_keys, policy, quarantine
from retention.archive import Archive, store_keys
from retention.database import Connection, transaction
from retention.disposition.plans import SUBJECTS, cut, remains
from retention.errors import Damaged, MunimentError, NotFound
from retention.holds import flags
from retention.ledger import Event
from retention.model import Description, RecordState, new_id
from retention.rules import Tombstone
from retention.seal import RecordKey, new_record_key

Clock = Callable[[], datetime]
_AT_ONCE = 25  # objects in one request to the vault: small enough that every thread has work


def destroy(archive: Archive, plan_id: UUID, ids: Sequence[UUID], clock: Clock) -> list[tuple[UUID, str]]:
    """Keys, bytes, T2 for records that are `destroying`; returns those that failed, and why. Safe to run again."""
    if not ids:
        return []
    annexes, untold = _annexes(archive, ids, clock())
    ids = [record for record in ids if record not in untold]
    former = _former(archive, ids)
    _destroy_keys(archive, plan_id, ids, former, annexes, clock())
    gone, failed = _erase(archive, ids)
    left = locked_keys.let_go(archive, gone, clock)
    _finish(archive, plan_id, [record for record in gone if record not in left], former, clock())
    return [*untold.items(), *failed, *left.items()]


def _former(archive: Archive, ids: Sequence[UUID]) -> dict[UUID, UUID]:
    """The documents in quarantine that these records were, whose bytes stand there still: document -> record."""
    with transaction(archive.connections) as conn:
        rows = conn.execute("SELECT quarantine_id, record_id FROM quarantine WHERE record_id = ANY(%s)", (list(ids),))
        return dict(rows.fetchall())


def _destroy_keys(
    archive: Archive,
    plan_id: UUID,
    ids: Sequence[UUID],
    former: Mapping[UUID, UUID],
    annexes: Sequence[_Annex],
    now: datetime,
) -> None:
    """Write the tombstones and delete the rows of the keys, in one transaction."""
    objects, lines = descriptors.store(archive, ((a, 1, sealed) for _, a, _, sealed in annexes), now)
    with transaction(archive.connections) as conn:
        scope = policy.current(conn).schedule.disposition.certificates
        store_keys(conn, archive.safe, {annex: (key, scope) for _, annex, key, _ in annexes}, now)
        descriptors.insert(conn, objects, lines, now)
        rows = conn.execute(
            """INSERT INTO tombstones (record_id, class_key, aggregation_id, received, sealed_sha256, sealed_bytes,
                                       rule_id, retain_until, outcome, plan_id, ended_at, content, annex_id)
               SELECT r.record_id, r.class_key, r.aggregation_id, r.received, c.sealed_sha256, c.sealed_bytes,
                      i.rule_id, i.retain_until,
                      CASE i.action WHEN 'transfer' THEN 'transferred' ELSE 'destroyed' END, i.plan_id, %s,
                      c.content, a.annex_id
                 FROM records r JOIN contents c USING (record_id) JOIN plan_items i USING (record_id)
                 LEFT JOIN unnest(%s::uuid[], %s::uuid[]) AS a(record_id, annex_id) USING (record_id)
                WHERE i.plan_id = %s AND r.record_id = ANY(%s) AND r.state = %s
                   ON CONFLICT (record_id) DO NOTHING
            RETURNING record_id, annex_id""",
            (
                *(now, [record for record, *_ in annexes], [annex for _, annex, *_ in annexes]),
                *(plan_id, list(ids), RecordState.DESTROYING),
            ),
        ).fetchall()
        left = conn.execute(
            """WITH gone AS (DELETE FROM subject_keys WHERE subject_id = ANY(%s) RETURNING bucket_id)
               INSERT INTO plan_remains (plan_id, kind, remains_id)
               SELECT DISTINCT %s::uuid, 'bucket', bucket_id FROM gone ON CONFLICT DO NOTHING
            RETURNING kind, remains_id""",
            (list(ids), plan_id),
        ).fetchall()
        left += quarantine.destroy_keys(conn, [*former], plan_id, now)
        digests = {line.subject_id: line.sha256.hex() for line in lines}
        events = [*_unreadable(archive, plan_id, rows, digests, now), *remains(archive, plan_id, left, now)]
        ledger.append(conn, events, now)


def _unreadable(
    archive: Archive,
    plan_id: UUID,
    rows: Sequence[tuple[UUID, UUID | None]],
    digests: Mapping[UUID, str],
    now: datetime,
) -> Iterator[Event]:
    """The events of new tombstones; those with an annex name it, and the digest of its sealed line."""
    detail: dict[str, Any] = {"plan": str(plan_id), "state": "key-destroyed"}
    for part in cut(sorted(record for record, annex in rows if annex is None)):
        yield Event("dea", now, archive.agent, part, detail=detail)
    annexes = {record: annex for record, annex in rows if annex is not None}
    for part in cut(sorted(annexes), SUBJECTS // 4):
        said = detail | {
            "annexes": [str(annexes[record]) for record in part],
            "annexes_sha256": [digests[annexes[record]] for record in part],
        }
        yield Event("dea", now, archive.agent, part, detail=said)


_Annex = tuple[UUID, UUID, RecordKey, bytes]  # record, annex, its key, sealed line


def _annexes(archive: Archive, ids: Sequence[UUID], now: datetime) -> tuple[list[_Annex], dict[UUID, str]]:
    """For classes whose tombstones describe, none twice; and why some records cannot be described."""
    found: list[_Annex] = []
    untold: dict[UUID, str] = {}
    with transaction(archive.connections) as conn:
        schedule = policy.current(conn).schedule
        wanted = [known.id for known in schedule.classes if known.tombstone is Tombstone.DESCRIPTIVE]
        rows = conn.execute(
            """SELECT r.record_id, d.name, d.source, d.title, d.author, d.mime, d.puid, d.language
                 FROM records r JOIN classes c USING (class_key) JOIN subject_keys k ON k.subject_id = r.record_id
                 LEFT JOIN descriptions d ON d.subject_id = r.record_id
                WHERE r.record_id = ANY(%s) AND c.class_id = ANY(%s)
                  AND NOT EXISTS (SELECT FROM tombstones t WHERE t.record_id = r.record_id)""",
            (list(ids), wanted),
        ).fetchall()
        for record, *said in rows:
            try:
                described = _described(archive, conn, record, said)
            except (Damaged, NotFound) as error:
                untold[record] = f"its tombstone cannot describe it: {error}"
                continue
            key = new_record_key()
            found.append((record, new_id(now), key, key.seal(descriptors.encode("annex", described))))
    return found, untold


def _described(archive: Archive, conn: Connection, record: UUID, said: Sequence[Any]) -> Description:
    """What an annex says. Raises Damaged, NotFound."""
    name, source, title, author, mime, puid, language = said
    if name is None:  # descriptions are being rebuilt
        line = descriptors.read_line(archive, conn, record)
        return replace(line, place="", sha256=None, modified=None, metadata={}, findings=(), text=b"")
    return Description(
        name=name, source=source, place="", title=title, author=author, mime=mime, puid=puid, language=language
    )


def _erase(archive: Archive, ids: Sequence[UUID]) -> tuple[list[UUID], list[tuple[UUID, str]]]:
    """Remove every version of every object: the records of which nothing is left, and those that failed.

    What was ever locked or held is looked at once more, one by one; the rest goes many at a time."""
    vault = archive.vault
    with transaction(archive.connections) as conn:
        rows = conn.execute(
            """WITH objects AS (
                   SELECT t.record_id, t.record_id AS subject_id, c.version,
                          'records/' || t.record_id || '/' || encode(t.sealed_sha256, 'hex') AS key
                     FROM tombstones t JOIN contents c USING (record_id) WHERE t.record_id = ANY(%(ids)s)
                   UNION ALL
                   SELECT record_id, quarantine_id, version, 'quarantine/' || quarantine_id FROM quarantine
                    WHERE record_id = ANY(%(ids)s))
               SELECT record_id, key, version, EXISTS (SELECT FROM object_locks l WHERE l.subject_id = o.subject_id)
                      OR EXISTS (SELECT FROM hold_flags f WHERE f.subject_id = o.subject_id)
                 FROM objects o""",
            {"ids": list(ids)},
        ).fetchall()
    looked_at = [[row] for row in rows if row[3]]
    others = [row for row in rows if not row[3]]
    groups = looked_at + [others[start : start + _AT_ONCE] for start in range(0, len(others), _AT_ONCE)]

    def erase(group: list[tuple[UUID, str, str, bool]]) -> Sequence[MunimentError | None]:
        if not group[0][3]:
            return vault.erase_many([(key, version) for _, key, version, _ in group])
        try:
            vault.erase(group[0][1])
        except MunimentError as error:
            return [error]
        return [None]

    with ThreadPoolExecutor(archive.settings.vault_threads, "erase") as threads:
        told = list(zip(groups, threads.map(erase, groups), strict=True))
    failed = {row[0]: str(why) for group, each in told for row, why in zip(group, each, strict=True) if why is not None}
    return [record for record in dict.fromkeys(row[0] for row in rows) if record not in failed], list(failed.items())


def _finish(archive: Archive, plan_id: UUID, gone: Sequence[UUID], former: Mapping[UUID, UUID], now: datetime) -> None:
    """T2: the record is destroyed. What described it goes in the same transaction."""
    if not gone:
        return
    ids = {"ids": list(gone)}
    with transaction(archive.connections) as conn:
        conn.execute(  # case files before records, as everywhere: two writers wait, and never for each other
            """SELECT FROM aggregations WHERE aggregation_id IN (
                      SELECT aggregation_id FROM records WHERE record_id = ANY(%(ids)s))
                ORDER BY aggregation_id FOR UPDATE""",
            ids,
        )
        rows = conn.execute(
            """SELECT t.record_id, t.outcome, t.rule_id, t.retain_until, t.sealed_sha256, c.class_id, r.aggregation_id
                 FROM tombstones t JOIN classes c USING (class_key) JOIN records r USING (record_id)
                WHERE t.record_id = ANY(%(ids)s) AND r.state = 2 ORDER BY 1 FOR UPDATE OF r""",
            ids,
        ).fetchall()
        conn.execute(
            """UPDATE records r SET state = CASE t.outcome WHEN 'transferred' THEN 4 ELSE 3 END
                 FROM tombstones t WHERE t.record_id = r.record_id AND r.record_id = ANY(%(ids)s) AND r.state = 2""",
            ids,
        )
        documents = [document for document, record in former.items() if record in set(gone)]
        left = _forget(conn, plan_id, ids["ids"], documents)
        quarantine.destroyed(conn, documents, now)
        conn.execute(
            """UPDATE plan_items i SET open = false, outcome = t.outcome, ended_at = %s FROM tombstones t
                WHERE i.plan_id = %s AND i.record_id = t.record_id AND t.record_id = ANY(%s)""",
            (now, plan_id, ids["ids"]),
        )
        events = []
        for record, outcome, rule, until, digest, class_id, _ in rows:
            detail = {
                "plan": str(plan_id),
                "class": class_id,
                "rule": rule,
                "retain_until": until.isoformat(),
                "sealed_sha256": bytes(digest).hex(),
                "outcome": outcome,
            }
            events.append(
                Event("tra" if outcome == "transferred" else "del", now, archive.agent, (record,), detail=detail)
            )
        events += remains(archive, plan_id, left, now)
        events += _empty_aggregations(conn, archive, plan_id, {row[6] for row in rows if row[6] is not None}, now)
        ledger.append(conn, events, now)


def _forget(conn: Connection, plan_id: UUID, records: Sequence[UUID], former: Sequence[UUID]) -> list[tuple[str, UUID]]:
    """Every row that describes a destroyed record, or tells where it came from; returns what remains for a while."""
    everything = [*records, *former]
    asked = {"records": list(records), "all": everything, "plan": plan_id}
    left = conn.execute(
        """WITH gone AS (DELETE FROM descriptor_lines
                          WHERE subject_id = ANY(%(all)s) OR subject_id IN (
                                SELECT trigger_event_id FROM trigger_events WHERE subject_id = ANY(%(records)s))
                      RETURNING descriptor_id)
           INSERT INTO plan_remains (plan_id, kind, remains_id)
           SELECT DISTINCT %(plan)s::uuid, 'descriptor', descriptor_id FROM gone ON CONFLICT DO NOTHING
        RETURNING kind, remains_id""",
        asked,
    ).fetchall()
    conn.execute("DELETE FROM descriptions WHERE subject_id = ANY(%(all)s)", asked)
    conn.execute("DELETE FROM sightings WHERE subject_id = ANY(%(all)s)", asked)
    conn.execute("DELETE FROM findings WHERE subject_id = ANY(%(all)s)", asked)
    conn.execute("DELETE FROM object_locks WHERE subject_id = ANY(%(records)s)", asked)
    flags.forget(conn, everything)
    _forget_events(conn, records)
    conn.execute("DELETE FROM contents WHERE record_id = ANY(%(records)s)", asked)
    return left


def _forget_events(conn: Connection, subjects: Sequence[UUID]) -> None:
    """What happened to a subject, and when: a birth is a date. That it was recorded, by whom, stays in the ledger."""
    asked = (list(subjects),)
    conn.execute("DELETE FROM current_triggers WHERE subject_id = ANY(%s)", asked)
    conn.execute("DELETE FROM trigger_events WHERE subject_id = ANY(%s)", asked)
    conn.execute("DELETE FROM suspensions WHERE subject_id = ANY(%s)", asked)


def _empty_aggregations(
    conn: Connection, archive: Archive, plan_id: UUID, touched: set[UUID], now: datetime
) -> list[Event]:
    """An aggregation of which no record is left loses its key too: its business id was sealed under it. They are
    locked: whoever captures into one waits, or is seen here."""
    asked = {"touched": list(touched), "plan": plan_id}
    rows = conn.execute(
        """WITH gone AS (
               DELETE FROM subject_keys k USING aggregations a
                WHERE k.subject_id = a.aggregation_id AND a.aggregation_id = ANY(%(touched)s)
                  AND NOT EXISTS (SELECT FROM records r WHERE r.aggregation_id = a.aggregation_id AND r.state < 3)
            RETURNING a.aggregation_id, k.bucket_id),
           told AS (
               INSERT INTO plan_remains (plan_id, kind, remains_id)
               SELECT DISTINCT %(plan)s::uuid, 'bucket', bucket_id FROM gone ON CONFLICT DO NOTHING
            RETURNING remains_id)
           SELECT 'aggregation', aggregation_id FROM gone UNION ALL SELECT 'bucket', remains_id FROM told""",
        asked,
    ).fetchall()
    empty = sorted(id_ for kind, id_ in rows if kind == "aggregation")
    left = [(kind, id_) for kind, id_ in rows if kind == "bucket"]
    asked = {"ids": empty, "plan": plan_id}
    left += conn.execute(
        """WITH gone AS (
               DELETE FROM descriptor_lines
                WHERE subject_id = ANY(%(ids)s) OR subject_id IN
                      (SELECT trigger_event_id FROM trigger_events WHERE subject_id = ANY(%(ids)s))
            RETURNING descriptor_id)
           INSERT INTO plan_remains (plan_id, kind, remains_id)
           SELECT DISTINCT %(plan)s::uuid, 'descriptor', descriptor_id FROM gone ON CONFLICT DO NOTHING
        RETURNING kind, remains_id""",
        asked,
    ).fetchall()
    conn.execute("DELETE FROM descriptions WHERE subject_id = ANY(%(ids)s)", asked)
    _forget_events(conn, empty)
    detail = {"plan": str(plan_id), "aggregation": "empty"}
    closed = [Event("del", now, archive.agent, part, detail=detail) for part in cut(empty)]
    return [*closed, *remains(archive, plan_id, left, now)]


def sweep_descriptors(archive: Archive) -> None:
    """Erase the descriptor objects of which no line is left; a locked one stays until another plan's end."""
    with transaction(archive.connections) as conn:
        rows = conn.execute(
            """SELECT d.descriptor_id FROM descriptors d
                WHERE NOT EXISTS (SELECT FROM descriptor_lines l WHERE l.descriptor_id = d.descriptor_id)"""
        ).fetchall()

    def erase(descriptor_id: UUID) -> UUID | None:
        try:
            archive.vault.erase(f"descriptors/{descriptor_id}")
        except MunimentError:
            return None  # unreadable anyhow: its keys are gone
        return descriptor_id

    with ThreadPoolExecutor(archive.settings.vault_threads, "erase") as threads:
        gone = [found for found in threads.map(erase, [row[0] for row in rows]) if found is not None]
    with transaction(archive.connections) as conn:
        conn.execute("DELETE FROM descriptors WHERE descriptor_id = ANY(%s)", (gone,))

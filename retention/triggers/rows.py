"""The rows of a change, and the current row of each subject, which follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from uuid import UUID

from retention.database import Connection
from retention.model import new_id
from retention.triggers.changes import Change


def write(
    conn: Connection, fresh: Change, ids: Sequence[UUID], by: UUID, now: datetime
) -> list[tuple[UUID, UUID, dict[str, str]]]:
    """Rows of a change, and what follows from them. Returns subject, id and words of each suspension for the ledger."""
    subjects = _insert_events(conn, fresh, ids, by, now)
    _refresh(conn, subjects)
    told = [(subject, new_id(now), starts, reason) for subject, starts, reason in fresh.suspensions]
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO suspensions (suspension_id, subject_id, starts, recorded_at, recorded_by, reason) "
            "VALUES (%s, %s, %s, %s, %s, %s)",
            [(id_, subject, starts, now, by, reason) for subject, id_, starts, reason in told],
        )
        cursor.executemany(
            "UPDATE suspensions SET ends = %s, ended_recorded_at = %s, ended_by = %s WHERE suspension_id = %s",
            [(ends, now, by, suspension) for suspension, ends in fresh.resumptions],
        )
    _move(conn, fresh.members, by, now)
    marked = [*subjects, *(subject for subject, _, _, _ in told), *(aggregation for _, aggregation in fresh.members)]
    if marked:
        conn.execute(
            """UPDATE records r SET special = true
            WHERE NOT r.special AND (
                  r.record_id = ANY(%(ids)s)
                  OR r.aggregation_id IN (SELECT subject_id FROM suspensions WHERE subject_id = ANY(%(ids)s)))""",
            {"ids": marked},
        )
    resumed = _ended_subjects(conn, fresh.resumptions)
    return [
        *((subject, id_, {"starts": str(starts), "reason": reason}) for subject, id_, starts, reason in told),
        *((resumed[id_], id_, {"ends": str(ends)}) for id_, ends in fresh.resumptions),
    ]


def _ended_subjects(conn: Connection, resumptions: Sequence[tuple[UUID, date]]) -> dict[UUID, UUID]:
    return dict(
        conn.execute(
            "SELECT suspension_id, subject_id FROM suspensions WHERE suspension_id = ANY(%s)",
            ([suspension for suspension, _ in resumptions],),
        ).fetchall()
    )


def _insert_events(conn: Connection, fresh: Change, ids: Sequence[UUID], by: UUID, now: datetime) -> list[UUID]:
    """Returns the subjects whose events changed."""
    kinds: dict[str, int] = dict(conn.execute("SELECT kind, ordinal FROM trigger_kinds").fetchall())
    with conn.cursor().copy(
        "COPY trigger_events (trigger_event_id, subject_id, kind, effective, recorded_at, recorded_by) "
        "FROM STDIN (FORMAT binary)"
    ) as copy:
        copy.set_types(["uuid", "uuid", "int2", "date", "timestamptz", "uuid"])
        for id_, given in zip(ids, fresh.events, strict=False):
            copy.write_row((id_, given.subject, kinds[given.kind], given.effective, now, by))
    retracted = conn.execute(
        """INSERT INTO trigger_events
                  (trigger_event_id, subject_id, kind, effective, recorded_at, recorded_by, retracts)
           SELECT n.id, e.subject_id, e.kind, e.effective, %s, %s, e.trigger_event_id
             FROM unnest(%s::uuid[], %s::uuid[]) AS n (id, event)
             JOIN trigger_events e ON e.trigger_event_id = n.event
           RETURNING subject_id""",
        (now, by, list(ids[len(fresh.events) :]), [retraction.event for retraction in fresh.retractions]),
    ).fetchall()
    return list({given.subject for given in fresh.events} | {row[0] for row in retracted})


def _refresh(conn: Connection, subjects: Sequence[UUID]) -> None:
    """What is current of these subjects: the latest unretracted date of each kind, and the earliest as `kind:first`."""
    if not subjects:
        return
    conn.execute("DELETE FROM current_triggers WHERE subject_id = ANY(%s)", (list(subjects),))
    conn.execute(
        """WITH live AS (
               SELECT e.subject_id, k.kind, max(e.effective) AS latest, min(e.effective) AS earliest
                 FROM trigger_events e JOIN trigger_kinds k ON k.ordinal = e.kind
                WHERE e.subject_id = ANY(%s) AND e.retracts IS NULL
                  AND NOT EXISTS (SELECT FROM trigger_events x WHERE x.retracts = e.trigger_event_id)
                GROUP BY 1, 2
           ), places AS (
               SELECT l.subject_id, k.ordinal, CASE WHEN k.kind = l.kind THEN l.latest ELSE l.earliest END AS day
                 FROM live l JOIN trigger_kinds k ON k.kind IN (l.kind, l.kind || ':first')
           )
           INSERT INTO current_triggers (subject_id, dates)
           SELECT s.subject_id, array_agg(p.day ORDER BY g.n)
             FROM (SELECT subject_id, max(ordinal) AS most FROM places GROUP BY 1) AS s
             CROSS JOIN LATERAL generate_series(1, s.most) AS g (n)
             LEFT JOIN places p ON p.subject_id = s.subject_id AND p.ordinal = g.n
            GROUP BY 1""",
        (list(subjects),),
    )


def _move(conn: Connection, members: Sequence[tuple[UUID, UUID]], by: UUID, now: datetime) -> None:
    if not members:
        return
    conn.execute(
        """WITH wanted AS (SELECT * FROM unnest(%s::uuid[], %s::uuid[]) AS n (record_id, aggregation_id)),
                told AS (INSERT INTO aggregation_changes
                         SELECT r.record_id, %s, r.aggregation_id, n.aggregation_id, %s
                           FROM wanted n JOIN records r USING (record_id))
           UPDATE records r SET aggregation_id = n.aggregation_id FROM wanted n WHERE n.record_id = r.record_id""",
        ([record for record, _ in members], [aggregation for _, aggregation in members], now, by),
    )


def make_kinds(conn: Connection, kinds: Iterable[str]) -> None:
    """Places in `current_triggers.dates`; asked for first, since a conflict burns a number of 32,767."""
    known = {row[0] for row in conn.execute("SELECT kind FROM trigger_kinds")}
    if new := sorted(set(kinds) - known):
        conn.execute(
            "INSERT INTO trigger_kinds (kind) SELECT n FROM unnest(%s::text[]) AS n ORDER BY n ON CONFLICT DO NOTHING",
            (new,),
        )

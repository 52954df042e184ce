"""Events, retractions, suspensions and membership, on a real catalog and vault."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from retention import aggregations, approvals, catalog, descriptors, eligibility, ledger, policy, triggers
from retention.aggregations import Aggregation
from retention.archive import Archive, load_key, store_keys
from retention.database import Connection, transaction
from retention.engine import decide
from retention.errors import NotFound, Refused, UsageError
from retention.seal import new_record_key
from retention.triggers import Change, Given, Retraction, change
from tests.owning import owning

SCHEDULE = """
version: 1
title: T
timezone: UTC
classes:
  - id: CASE
    title: Case
    action: destroy
    rules:
      - {id: end, trigger: "event:contract_end", period: P7Y, authority: {citation: L}}
  - id: WHOLE
    title: Goes as a whole
    action: destroy
    unit: aggregation
    rules:
      - {id: whole, trigger: "event:contract_end", period: P7Y, authority: {citation: L}}
  - id: TAX
    title: Waits for the assessment
    action: destroy
    rules:
      - {id: tax, trigger: received, period: P1Y, not_before: "event:assessment_final", authority: {citation: L}}
  - id: FIRST
    title: First
    action: destroy
    rules:
      - {id: visit, trigger: "event:visit", occurrence: first, period: P7Y, authority: {citation: L}}
"""
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
TODAY = NOW.date()
YEAR = timedelta(365)
PATIENT = Aggregation("patient", "123")


@pytest.fixture
def loaded(archive: Archive) -> Archive:
    policy.load(archive, SCHEDULE, "test", NOW)
    return archive


def record(archive: Archive, class_id: str = "CASE", document_date: date | None = None) -> UUID:
    """A captured record as far as triggers look at it: a row and a key."""
    record_id = uuid4()
    with transaction(archive.connections) as conn:
        conn.execute("INSERT INTO classes (class_id) VALUES (%s) ON CONFLICT DO NOTHING", (class_id,))
        conn.execute(
            "INSERT INTO records (record_id, bytes, recorded_at, received, document_date, class_key) "
            "SELECT %s, 1, %s, %s, %s, class_key FROM classes WHERE class_id = %s",
            (record_id, NOW, date(2010, 1, 1), document_date, class_id),
        )
        store_keys(conn, archive.safe, {record_id: (new_record_key(), class_id)}, NOW)
    return record_id


def patient(archive: Archive, *records: UUID, named: Aggregation = PATIENT) -> UUID:
    with transaction(archive.connections) as conn:
        aggregations.ensure(conn, archive, [named], NOW)
    found = aggregations.identity(archive.safe, named)
    change(archive, Change(members=tuple((one, found) for one in records)), NOW)
    return found


def due(archive: Archive, as_of: date = TODAY) -> set[UUID]:
    with transaction(archive.connections) as conn:
        plan = policy.current(conn).schedule
        found = {row.record_id for row in eligibility.due_records(conn, plan, as_of)}
        everything = [row[0] for row in conn.execute("SELECT record_id FROM records WHERE state = 1")]
        facts = catalog.facts_of(conn, everything)
        assert found == {one for one in everything if decide(facts[one], plan, as_of).due}
    return found


def by_two(archive: Archive, wanted: Change, now: datetime = NOW) -> list[UUID]:
    """The events of a change that was signed by two, in order of their days; alone it is refused."""
    with pytest.raises(Refused, match="refusing to record it alone"):
        change(archive, wanted, now)
    proposal = triggers.propose(archive, wanted, now)
    with transaction(archive.connections) as conn:
        ledger.append(conn, triggers.take_effect(conn, archive, proposal, now), now)
    rows = query(archive, "SELECT trigger_event_id FROM trigger_events WHERE retracts IS NULL ORDER BY effective")
    return [UUID(str(row[0])) for row in rows]


def query(archive: Archive, text: str, *values: object) -> list[tuple[Any, ...]]:
    with transaction(archive.connections) as conn:
        return conn.execute(text.encode(), values).fetchall()


def test_an_event_starts_a_period_and_a_retraction_takes_it_back(loaded: Archive) -> None:
    one, other = record(loaded), record(loaded)
    subject = patient(loaded, one)
    assert due(loaded, date(2100, 1, 1)) == set()
    done = change(loaded, Change((Given(subject, "contract_end", TODAY),)), NOW)
    assert (len(done.ids), done.known, done.warnings) == (1, 0, ())
    assert due(loaded, date(2033, 11, 22)) == set()
    assert due(loaded, date(2033, 11, 23)) == {one}
    later = patient(loaded, other)
    assert later == subject and due(loaded, date(2033, 11, 23)) == {one, other}
    change(loaded, Change(retractions=(Retraction(done.ids[0], "wrong contract"),)), NOW)
    assert due(loaded, date(2100, 1, 1)) == set()
    assert query(loaded, "SELECT count(*) FROM trigger_events") == [(2,)]


def test_the_same_event_again_is_known_and_a_second_retraction_is_refused(loaded: Archive) -> None:
    subject = patient(loaded)
    given = Change((Given(subject, "contract_end", TODAY), Given(subject, "contract_end", TODAY)))
    assert (len(change(loaded, given, NOW).ids), change(loaded, given, NOW).known) == (1, 2)
    (event,) = (row[0] for row in query(loaded, "SELECT trigger_event_id FROM trigger_events"))
    assert isinstance(event, UUID)
    retraction = Change(retractions=(Retraction(event),))
    change(loaded, retraction, NOW)
    with pytest.raises(Refused, match="again"):
        change(loaded, retraction, NOW)
    (row,) = query(loaded, "SELECT trigger_event_id FROM trigger_events WHERE retracts IS NOT NULL")
    with pytest.raises(Refused, match="is a retraction"):
        change(loaded, Change(retractions=(Retraction(UUID(str(row[0]))),)), NOW)
    with pytest.raises(NotFound):
        change(loaded, Change(retractions=(Retraction(uuid4()),)), NOW)


def test_an_event_with_no_subject_hits_nothing(loaded: Archive) -> None:
    """Microsoft Purview applies an event without an asset id to everything of its type."""
    one = record(loaded)
    patient(loaded, one)
    for text in ("", "patient:", ":123", "*"):
        with pytest.raises(UsageError):
            aggregations.subject(loaded.safe, text)
    with pytest.raises(NotFound):
        change(loaded, Change((Given(uuid4(), "contract_end", date(2000, 1, 1)),)), NOW)
    with pytest.raises(NotFound):
        nobody = aggregations.subject(loaded.safe, "patient:124")
        change(loaded, Change((Given(nobody, "contract_end", date(2000, 1, 1)),)), NOW)
    assert query(loaded, "SELECT FROM trigger_events") == [] and due(loaded, date(2100, 1, 1)) == set()


def test_what_makes_something_due_needs_two_people(loaded: Archive) -> None:
    one, two = record(loaded), record(loaded)
    subject = patient(loaded, one, two)
    backdated = Change((Given(subject, "contract_end", TODAY - 8 * YEAR, "letter of Mrs Cohen"),))
    with pytest.raises(Refused, match=f"before the day on which it is recorded .{TODAY - 8 * YEAR}, before {TODAY}"):
        change(loaded, backdated, NOW)
    assert query(loaded, "SELECT FROM trigger_events") == [] and due(loaded) == set()
    proposal = triggers.propose(loaded, backdated, NOW)
    assert proposal.kind is approvals.Kind.TRIGGER and "makes due 2 records" in (proposal.statement or "")
    assert f"why       contract_end of {subject} lies before" in (proposal.statement or "")
    told = f"{proposal.payload}{proposal.statement}"
    assert "Cohen" not in told and str(TODAY - 8 * YEAR) not in told
    with transaction(loaded.connections) as conn:
        assert triggers.meant(conn, loaded, proposal) == backdated  # for who is to sign it
        triggers.take_effect(conn, loaded, proposal, NOW)
    assert due(loaded) == {one, two}
    (event,) = query(loaded, "SELECT trigger_event_id FROM trigger_events")
    with transaction(loaded.connections) as conn:
        assert line(conn, loaded, subject, UUID(str(event[0])))["note"] == "letter of Mrs Cohen"
    newer = change(loaded, Change((Given(subject, "contract_end", TODAY),)), NOW)
    assert due(loaded) == set()
    with pytest.raises(Refused, match="would count from an earlier day"):
        change(loaded, Change(retractions=(Retraction(newer.ids[0]),)), NOW)
    with pytest.raises(Refused, match="no second person"):
        triggers.propose(loaded, Change((Given(subject, "contract_end", TODAY + YEAR),)), NOW)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("until", [TODAY, TODAY + timedelta(1), TODAY + 40 * YEAR])
def test_a_day_that_comes_later_needs_two_people_as_well(loaded: Archive, until: date, held: bool) -> None:
    """With records that would be due tomorrow or in forty years, with none yet, and with a hold on them."""
    subject = patient(loaded, *([record(loaded)] if until < TODAY + YEAR else []))
    if held:
        with transaction(loaded.connections) as conn:
            hold(conn)
    ended = date(until.year - 7, until.month, until.day) if until < TODAY + YEAR else TODAY - timedelta(1)
    (event,) = by_two(loaded, Change((Given(subject, "contract_end", ended),)))
    assert due(loaded, until) == set()
    change(loaded, Change(retractions=(Retraction(event),)), NOW)  # then all is kept: one person
    change(loaded, Change((Given(subject, "contract_end", TODAY), Given(subject, "contract_end", TODAY + YEAR))), NOW)
    ((last,),) = query(loaded, "SELECT trigger_event_id FROM trigger_events WHERE effective = %s", TODAY + YEAR)
    by_two(loaded, Change(retractions=(Retraction(UUID(str(last))),)))


def hold(conn: Connection) -> None:
    """Everything is held."""
    conn.execute(
        "INSERT INTO holds (hold_id, recorded_at, recorded_by, mode, review_on) VALUES (%s, %s, %s, 'static', %s)",
        (held := uuid4(), NOW, uuid4(), TODAY + YEAR),
    )
    conn.execute("INSERT INTO hold_members SELECT record_id, %s, %s FROM records", (held, NOW))


def test_an_event_that_need_only_be_there_delays_nothing(loaded: Archive) -> None:
    """The assessment is final tomorrow: what waited for it alone is due tomorrow."""
    one, young = record(loaded, "TAX"), record(loaded, "TAX")
    with transaction(loaded.connections) as conn:
        conn.execute("UPDATE records SET received = %s WHERE record_id = %s", (TODAY + 2 * YEAR, young))
    file, other = patient(loaded, one), patient(loaded, named=Aggregation("patient", "124"))
    by_two(loaded, Change((Given(file, "assessment_final", TODAY + timedelta(1)),)))
    assert due(loaded) == set() and due(loaded, TODAY + timedelta(1)) == {one}
    change(loaded, Change((Given(other, "assessment_final", TODAY),)), NOW)  # nothing waited for it


def test_what_joins_a_closed_case_or_leaves_one_that_goes_as_a_whole(loaded: Archive) -> None:
    closed, open_ = (patient(loaded, named=Aggregation("contract", name)) for name in ("1", "2"))
    by_two(loaded, Change((Given(closed, "contract_end", TODAY - YEAR),)))
    change(loaded, Change((Given(open_, "contract_end", TODAY),)), NOW)
    one, whole, left = record(loaded), record(loaded, "WHOLE"), record(loaded, "WHOLE")
    change(loaded, Change(members=((one, open_), (whole, open_), (left, open_))), NOW)
    by_two(loaded, Change(members=((one, closed),)), NOW + timedelta(seconds=1))
    with pytest.raises(Refused, match="would leave its case file, which goes as a whole"):
        change(loaded, Change(members=((whole, patient(loaded)),)), NOW)


def line(conn: Connection, archive: Archive, subject: UUID, event: UUID) -> dict[str, str]:
    """What the sealed line of an event says, opened with its subject's key, as a rebuild would."""
    row = conn.execute(
        "SELECT l.descriptor_id, version, byte_offset, byte_length FROM descriptor_lines l "
        "JOIN descriptors USING (descriptor_id) WHERE subject_id = %s",
        (event,),
    ).fetchone()
    assert row is not None
    with archive.vault.open(f"descriptors/{row[0]}", row[1]) as stream:
        sealed = stream.read()[row[2] : row[2] + row[3]]
    kind, found = descriptors.decode(load_key(conn, archive.safe, subject).open(sealed))
    assert kind == "trigger"
    return dict(found.metadata)


def test_a_proposal_is_unreadable_once_its_subject_is_gone(loaded: Archive) -> None:
    subject = patient(loaded, record(loaded))
    proposal = triggers.propose(loaded, Change((Given(subject, "contract_end", TODAY - 8 * YEAR),)), NOW)
    with transaction(loaded.connections) as conn:
        conn.execute("DELETE FROM subject_keys WHERE subject_id = %s", (subject,))
        with pytest.raises(NotFound, match="its key is gone"):
            triggers.meant(conn, loaded, proposal)
        with pytest.raises(NotFound, match="its key is gone"):
            triggers.take_effect(conn, loaded, proposal, NOW)


def test_the_ledger_holds_no_date_and_the_sealed_line_does(loaded: Archive) -> None:
    subject = patient(loaded)
    done = change(loaded, Change((Given(subject, "birth", date(1987, 6, 5), "of the register"),)), NOW)
    assert done.warnings == ("no rule of the schedule in force asks for event:birth; it is kept for the day one does",)
    entries = b"".join(bytes(row[0]) for row in query(loaded, "SELECT entry FROM events"))
    assert b'"kind":"birth"' in entries
    assert not any(word in entries for word in (b"1987", b"register", b"patient:123"))
    with transaction(loaded.connections) as conn:
        said = line(conn, loaded, subject, done.ids[0])
    assert said == {"subject": str(subject), "kind": "birth", "effective": "1987-06-05", "note": "of the register"}


def test_descriptions_are_rebuilt_with_aggregations_and_without_their_events(loaded: Archive) -> None:
    subject = patient(loaded)
    change(loaded, Change((Given(subject, "birth", date(1987, 6, 5)),)), NOW)
    with owning(loaded) as conn:
        conn.execute("TRUNCATE descriptions, descriptions_complete")
        assert descriptors.missing(conn) == 1
    assert descriptors.rebuild(loaded) == descriptors.Rebuilt(1)
    with transaction(loaded.connections) as conn:
        assert aggregations.names(conn, [subject]) == {subject: "patient:123"}
        assert descriptors.missing(conn) == 0


def test_latest_and_first_of_several_events_by_set_as_for_one(loaded: Archive) -> None:
    one = record(loaded, "FIRST")
    subject = patient(loaded, one)
    days = [date(2021, 5, 1), date(2020, 5, 1), date(2022, 5, 1)]
    first, _, _ = by_two(loaded, Change(tuple(Given(subject, "visit", day) for day in days)))
    assert due(loaded, date(2027, 5, 2)) == {one} and due(loaded, date(2027, 5, 1)) == set()
    change(loaded, Change(retractions=(Retraction(first),)), NOW)
    assert due(loaded, date(2028, 5, 1)) == set() and due(loaded, date(2028, 5, 2)) == {one}
    by_two(loaded, Change((Given(one, "visit", date(2020, 1, 1)),)))  # of the record itself: it is special now
    assert due(loaded, date(2027, 1, 2)) == {one}


@pytest.mark.parametrize("last", [date(2026, 1, 10), TODAY, TODAY + YEAR])
def test_a_suspension_adds_its_days_and_its_end_needs_two(loaded: Archive, last: date) -> None:
    one = record(loaded)
    subject = patient(loaded, one)
    by_two(loaded, Change((Given(subject, "contract_end", date(2020, 1, 1)),)))  # until 2027-01-01
    start = Change(suspensions=((subject, date(2026, 1, 1), "litigation"),))
    change(loaded, start, NOW)
    change(loaded, start, NOW)
    assert due(loaded, date(2040, 1, 1)) == set()
    ((suspension,),) = query(loaded, "SELECT suspension_id FROM suspensions")
    end = Change(resumptions=((UUID(str(suspension)), last),))
    by_two(loaded, end)
    until = date(2027, 1, 1) + (last - date(2025, 12, 31))
    assert due(loaded, until) == set() and due(loaded, until + timedelta(1)) == {one}
    with pytest.raises(Refused, match="again"):
        change(loaded, end, NOW)
    newcomer = record(loaded)
    by_two(loaded, Change(members=((newcomer, subject),)))
    assert due(loaded, until + timedelta(1)) == {one, newcomer}


def test_facts_as_they_were_known(loaded: Archive) -> None:
    one = record(loaded)
    days = [NOW + timedelta(n) for n in range(6)]
    with transaction(loaded.connections) as conn:
        aggregations.ensure(conn, loaded, [PATIENT], NOW)
    subject = aggregations.identity(loaded.safe, PATIENT)
    change(loaded, Change(members=((one, subject),)), days[1])
    (event,) = by_two(loaded, Change((Given(subject, "contract_end", date(2026, 1, 1)),)), days[2])
    change(loaded, Change(suspensions=((one, date(2026, 2, 1), "audit"),)), days[3])
    change(loaded, Change(retractions=(Retraction(event),)), days[4])
    with transaction(loaded.connections) as conn:
        seen = [catalog.facts(conn, one, day) for day in days]
        assert catalog.facts(conn, one) == seen[-1]
        with pytest.raises(NotFound):
            catalog.facts(conn, one, NOW - timedelta(1))
        first = policy.at(conn, days[0])
        assert first.version == policy.current(conn).version
        with pytest.raises(NotFound):
            policy.at(conn, NOW - timedelta(1))
    dated = {"contract_end": (date(2026, 1, 1),)}
    assert [facts.inherited for facts in seen] == [{}, {}, dated, dated, {}, {}]
    assert [len(facts.suspensions) for facts in seen] == [0, 0, 0, 1, 1, 1]


def test_dates_that_cannot_be(loaded: Archive) -> None:
    subject = patient(loaded)
    with pytest.raises(UsageError, match="1800"):
        change(loaded, Change((Given(subject, "contract_end", date(1799, 12, 31)),)), NOW)
    with pytest.raises(UsageError, match="small letters"):
        change(loaded, Change((Given(subject, "Contract end", TODAY),)), NOW)
    done = change(loaded, Change((Given(subject, "contract_end", TODAY + YEAR),)), NOW)
    assert done.warnings == ("1 of the dates lie in the future",)


def test_a_record_being_destroyed_takes_no_event(loaded: Archive) -> None:
    one = record(loaded)
    with transaction(loaded.connections) as conn:
        conn.execute("UPDATE records SET state = 2 WHERE record_id = %s", (one,))
    with pytest.raises(Refused, match="destroying"):
        change(loaded, Change((Given(one, "contract_end", TODAY),)), NOW)

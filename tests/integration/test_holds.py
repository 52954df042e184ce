"""Holds: what they take in, whose turn it is, how they end, and what the vault and the report say of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from ingest.model import CODES
from retention import approvals, capture, catalog, descriptors, holds, ledger, policy, reports
from retention.archive import Archive, open_archive
from retention.config import Settings
from retention.database import Connection, transaction
from retention.errors import NotFound, Refused, UsageError
from retention.holds import Matter, Placed, flags, production, register
from retention.holds.register import Mode
from retention.holds.scopes import AUTHOR_UNREAD, UNREAD, Scope, from_json, to_json
from retention.model import RecordState
from retention.packages.check import verify_bag
from retention.reports import Status
from tests.deposits import Doc, batch, deposit, described, detain, file_under, release, released
from tests.owning import owning

MATTER = Matter("Levi v. Acme", "Court order 17/2026", date(2099, 1, 1))


def utc() -> datetime:
    return datetime.now(UTC)


def place(archive: Archive, mode: Mode = Mode.STATIC, matter: Matter = MATTER, **scope: Any) -> Placed:
    return holds.place(archive, Scope(**scope), mode, matter, utc())


def members(archive: Archive, hold_id: UUID) -> set[UUID]:
    with transaction(archive.connections) as conn:
        return set(register.members(conn, hold_id))


def execute(archive: Archive, query: Any, *params: Any) -> list[tuple[Any, ...]]:
    with owning(archive) as conn:
        cursor = conn.execute(query, params)
        return cursor.fetchall() if cursor.description else []


def flagged(archive: Archive, record_id: UUID) -> bool:
    ((digest, version),) = execute(
        archive, "SELECT sealed_sha256, version FROM contents WHERE record_id = %s", record_id
    )
    return archive.vault.stat(f"records/{record_id}/{digest.hex()}", version).hold


# ---------------------------------------------------------------- scope


def test_each_criterion_alone_and_together(archive: Archive) -> None:
    invoice, letter, staff, old = deposit(
        archive,
        Doc("pay the breach of contract", author="Ruth Levi <ruth@example.org>", document_date=date(2021, 5, 1)),
        Doc("of breach and of contract", class_id="FIN", author="Dan Katz"),
        Doc("salary", class_id="HR", author="Ruth Cohen"),
        Doc("ledger", received=date(2011, 3, 1)),
    )
    (elsewhere,) = deposit(archive, Doc("ledger of the branch"), source="branch")
    file_under(archive, "contract:4711", letter, staff)
    execute(archive, "INSERT INTO record_labels SELECT %s, class_key, now() FROM classes WHERE class_id = 'HR'", old)

    def found(**scope: Any) -> set[UUID]:
        placed = place(archive, **scope)
        assert placed.new
        assert placed.members == placed.added
        assert placed.unsearchable == 0
        return members(archive, placed.hold_id)

    assert found(records=(invoice, old)) == {invoice, old}
    assert found(classes=("FIN-010",)) == {invoice, old, elsewhere}
    assert found(classes=("FIN",)) == {invoice, letter, old, elsewhere}, "a class means those below it too"
    assert found(classes=("HR",)) == {staff, old}, "a label is a class"
    assert found(aggregations=("contract:4711",)) == {letter, staff}
    assert found(sources=("branch",)) == {elsewhere}
    assert found(custodians=("RUTH",)) == {invoice, staff}
    assert found(since=date(2021, 1, 1)) == {invoice}, "the document's own date goes before that of receipt"
    assert found(until=date(2011, 3, 1)) == {old}
    assert found(text='"breach of contract"') == {invoice}
    assert found(text="contract breach") == {invoice, letter}
    assert found(custodians=("ruth", "dan"), text="contract") == {invoice, letter}
    assert found(custodians=("ruth",), classes=("FIN",)) == {invoice}
    assert found(aggregations=("contract:4711",), text="nothing") == set()


def test_a_search_takes_in_what_cannot_be_searched_and_nothing_else(archive: Archive) -> None:
    codes = ("PDF-ENCRYPTED", "TEXT-LIMIT", "SCANNED")
    empty, *read_in_part, _, _ = deposit(
        archive,
        Doc(""),
        *(Doc("a part", codes=(code,)) for code in codes),
        Doc("nothing of the kind", codes=("OWNER-PASSWORD",)),
        Doc("", class_id="HR"),
    )
    placed = place(archive, text="embezzlement", classes=("FIN",))
    assert members(archive, placed.hold_id) == {empty, *read_in_part}
    assert placed.unsearchable == 4
    by = place(archive, custodians=("ruth",), classes=("FIN",))
    assert members(archive, by.hold_id) == {empty, *read_in_part}


def test_while_descriptions_are_rebuilt_everything_else_in_scope_is_held(archive: Archive) -> None:
    one, two, other = deposit(archive, Doc("alpha", author="Ann"), Doc("beta", author="Ben"), Doc("c", class_id="HR"))
    execute(archive, "DELETE FROM descriptions WHERE subject_id = ANY(%s)", [one, two, other])
    assert members(archive, place(archive, text="gamma", classes=("FIN",)).hold_id) == {one, two}
    assert members(archive, place(archive, custodians=("Ann",), classes=("FIN",)).hold_id) == {one, two}
    execute(archive, "DELETE FROM descriptions_complete")
    assert descriptors.rebuild(archive).failures == ()
    assert members(archive, place(archive, text="alpha", classes=("FIN",)).hold_id) == {one}


def test_a_phrase_late_in_a_long_text_is_held_by_its_words(archive: Archive) -> None:
    filler = " ".join(f"word{n}" for n in range(9_000))
    long, split, loose = deposit(
        archive,
        Doc(f"{filler} breach of ruth.levi@example.org contract"),
        Doc("x" * (descriptors.PHRASED_CHARS - 4) + " agreement " + filler),  # the index of phrases ends within a word
        Doc("breach here, and of another contract"),
    )
    assert members(archive, place(archive, text='"breach of contract"').hold_id) == {long}
    assert members(archive, place(archive, text="ruth.levi@example.org").hold_id) == {long}
    assert members(archive, place(archive, text="agreement").hold_id) == {split}
    assert loose


def test_a_text_that_does_not_fit_the_index_is_held(archive: Archive) -> None:
    words = " ".join(sha256(str(n).encode()).hexdigest()[:30] for n in range(8_500))
    (cut,) = deposit(archive, Doc(words))
    assert members(archive, place(archive, text="embezzlement").hold_id) == {cut}


def test_the_codes_that_say_unread_exist() -> None:
    assert {*UNREAD, *AUTHOR_UNREAD} <= CODES.keys()


REFUSED: list[tuple[Scope, type[Exception], str]] = [
    (Scope(), UsageError, "would hit everything"),
    (Scope(text="  ...  "), UsageError, "expected words"),
    (Scope(aggregations=("4711",)), UsageError, "KIND:ID"),
    (Scope(custodians=(" ",)), UsageError, "an empty one"),
    (Scope(since=date(2020, 1, 2), until=date(2020, 1, 1)), UsageError, "no day lies between"),
    (Scope(records=(UUID(int=7),)), NotFound, "no record 0000"),
    (Scope(classes=("FNI",)), NotFound, "--class FNI"),
    (Scope(sources=("inbx",)), NotFound, "--source inbx"),
    (Scope(aggregations=("contract:1",)), NotFound, "--aggregation contract:1"),
]


def test_a_scope_that_would_hold_nothing_or_everything_is_refused(archive: Archive) -> None:
    deposit(archive, Doc("one"))
    before, lines = execute(archive, "SELECT size FROM ledger_head"), [*archive.vault.list("descriptors")]
    for scope, error, says in REFUSED:
        with pytest.raises(error, match=says):
            holds.place(archive, scope, Mode.STATIC, MATTER, utc())
    assert [*archive.vault.list("descriptors")] == lines  # an orphan would be named by `verify`
    assert execute(archive, "SELECT count(*) FROM holds") == [(0,)]
    assert execute(archive, "SELECT size FROM ledger_head") == before


def test_a_matter_says_something_and_its_review_lies_ahead(archive: Archive) -> None:
    (record,) = deposit(archive, Doc("one"))
    for matter in (replace(MATTER, name=" "), replace(MATTER, authority=""), replace(MATTER, review_on=utc().date())):
        with pytest.raises(UsageError):
            place(archive, matter=matter, records=(record,))


def test_a_family_is_held_whole(archive: Archive) -> None:
    top, middle, leaf, sibling, alone = deposit(
        archive,
        Doc("mail", children=(Doc("archive", children=(Doc("needle"),)), Doc("picture"))),
        Doc("alone"),
    )
    assert members(archive, place(archive, text="needle").hold_id) == {top, middle, leaf, sibling}
    assert members(archive, place(archive, records=(top,)).hold_id) == {top, middle, leaf, sibling}
    assert alone


# ---------------------------------------------------------------- words stay sealed


def test_what_a_person_wrote_is_in_the_sealed_line_and_nowhere_else(archive: Archive) -> None:
    deposit(archive, Doc("secret words", author="Ruth Levi"))
    placed = place(archive, text="secret", custodians=("Ruth",))
    with transaction(archive.connections) as conn:
        shown = register.show(conn, archive, placed.hold_id)
    assert (shown["matter"], shown["authority"]) == (MATTER.name, MATTER.authority)
    assert shown["scope"] == {"custodians": ["Ruth"], "text": "secret"}
    assert shown["placed_by"] == "Ruth Levi"
    event, held = shown["events"]
    assert event["type"] == held["type"] == "poa"
    ((record,),) = execute(archive, "SELECT record_id FROM hold_members")
    assert held["detail"]["held"] == 1
    assert event["detail"]["members_sha256"] == sha256(record.bytes).hexdigest()
    control = [
        row[0]
        for row in execute(
            archive,
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relpersistence = 'p' "
            "AND relnamespace = 'public'::regnamespace",
        )
    ]
    assert "holds" in control
    for table in control:
        for (text,) in execute(archive, f"SELECT t::text FROM {table} t".encode()):
            for word in ("Acme", "17/2026", "secret"):
                assert word not in text
                assert word.encode().hex() not in text


def test_a_scope_is_read_back_as_it_was_written() -> None:
    scope = Scope((uuid4(),), ("A",), ("k:1",), ("s",), ("c",), date(2020, 1, 1), date(2020, 1, 2), "words")
    assert from_json(to_json(scope)) == scope
    assert from_json(to_json(Scope(text=""))) == Scope(text="")


def test_descriptions_of_holds_are_rebuilt(archive: Archive) -> None:
    (record,) = deposit(archive, Doc("one"))
    place(archive, records=(record,))
    execute(archive, "TRUNCATE descriptions, descriptions_complete")
    with transaction(archive.connections) as conn:
        assert [hold.matter for hold in register.listed(conn)] == [None]
        assert descriptors.missing(conn) == 2
    assert descriptors.rebuild(archive).subjects == 2
    with transaction(archive.connections) as conn:
        assert [hold.matter for hold in register.listed(conn)] == [MATTER.name]
        assert descriptors.missing(conn) == 0


# ---------------------------------------------------------------- again, several, and the end


def test_placing_again_adds_what_matches_since_and_changes_nothing_else(archive: Archive) -> None:
    deposit(archive, Doc("one"))
    first = place(archive, classes=("FIN",))
    size = execute(archive, "SELECT size FROM ledger_head")
    objects = len([*archive.vault.list("descriptors")])
    again = place(archive, classes=("FIN",))
    assert (again.hold_id, again.new, again.members, again.added) == (first.hold_id, False, 1, 0)
    assert execute(archive, "SELECT size FROM ledger_head") == size
    assert len([*archive.vault.list("descriptors")]) == objects
    deposit(archive, Doc("two"))
    assert place(archive, classes=("FIN",)).members == 2
    release(archive, first.hold_id, utc())
    anew = place(archive, classes=("FIN",))
    assert anew.new
    assert anew.hold_id != first.hold_id


def test_several_holds_freeze_until_the_last_is_released(archive: Archive) -> None:
    one, two = deposit(archive, Doc("one"), Doc("two"))
    first, second = place(archive, records=(one, two)), place(archive, records=(one,))
    assert flags.drain(archive, utc()).set == 2
    said = release(archive, first.hold_id, utc())
    assert (said["released"], said["still_held"], said["since_proposed"]) == (2, 1, 0)
    assert flags.drain(archive, utc()).set == 1
    assert (flagged(archive, one), flagged(archive, two)) == (True, False)
    with transaction(archive.connections) as conn:
        assert catalog.facts(conn, one).holds == (str(second.hold_id),)
        assert catalog.facts(conn, two).holds == ()
        assert conn.execute("SELECT count(*) FROM hold_members_released").fetchone() == (2,)
    with pytest.raises(Refused, match="released 20"):
        release(archive, first.hold_id, utc())
    with pytest.raises(NotFound, match="no hold"):
        release(archive, uuid4(), utc())
    release(archive, second.hold_id, utc())
    assert flags.drain(archive, utc()).set == 1
    assert not flagged(archive, one)


def test_a_release_is_proposed_once_and_takes_effect_with_its_event(archive: Archive) -> None:
    (one,) = deposit(archive, Doc("one"))
    placed = place(archive, records=(one,))
    proposal = holds.propose_release(archive, placed.hold_id, utc())
    assert holds.propose_release(archive, placed.hold_id, utc()).id == proposal.id
    assert str(placed.hold_id) in (proposal.statement or "")
    assert members(archive, placed.hold_id) == {one}
    assert proposal.kind is approvals.Kind.HOLD_RELEASE
    anew = holds.propose_release(archive, placed.hold_id, proposal.expires_at)
    assert anew.id != proposal.id
    with transaction(archive.connections) as conn:
        assert approvals.show(conn, proposal.id).state == "withdrawn"  # one at a time
    released(archive, anew)
    assert members(archive, placed.hold_id) == set()
    with pytest.raises(Refused, match="refusing to release"):
        holds.propose_release(archive, placed.hold_id, utc())


def test_a_static_hold_is_released_as_it_was_signed_and_never_with_more(archive: Archive) -> None:
    deposit(archive, Doc("one"))
    placed = place(archive, classes=("FIN",))
    proposal = holds.propose_release(archive, placed.hold_id, utc())
    digest = execute(archive, "SELECT sha256(uuid_send(record_id)) FROM hold_members")[0][0].hex()
    assert f"frees     1 records, {placed.bytes} bytes, SHA-256 of their ids {digest}" in (proposal.statement or "")
    deposit(archive, Doc("two"))
    assert place(archive, classes=("FIN",)).added == 1  # somebody says that it must be kept as well
    with pytest.raises(Refused, match="has other members than those that were signed; 1 records came under it since"):
        released(archive, proposal)
    assert len(members(archive, placed.hold_id)) == 2
    anew = holds.propose_release(archive, placed.hold_id, utc())
    assert anew.id != proposal.id and "frees     2 records" in (anew.statement or "")
    said = released(archive, anew)
    assert (said["released"], said["since_proposed"], said["quarantined"]) == (2, 0, 0)
    detain(archive, Doc("three"))
    other = place(archive, classes=("HR",))
    assert "documents in quarantine" not in (proposal.statement or "")
    assert "0 records" in (found := holds.propose_release(archive, other.hold_id, utc()).statement or "")
    assert "and 1 documents in quarantine" in found


def test_a_dynamic_hold_is_released_with_what_it_has_by_then_and_the_event_says_how_much(archive: Archive) -> None:
    """Its matter has ended. If what arrives every day had to be signed anew, it could never be released."""
    deposit(archive, Doc("one"))
    placed = place(archive, Mode.DYNAMIC, classes=("FIN",))
    proposal = holds.propose_release(archive, placed.hold_id, utc())
    assert "all that it has when the last of you signs" in (proposal.statement or "")
    assert "has now   1 records" in (proposal.statement or "")
    late = deposit(archive, Doc("two"), Doc("three"))
    assert holds.propose_release(archive, placed.hold_id, utc()).id == proposal.id
    with transaction(archive.connections) as conn:
        assert register.freed(conn, placed.hold_id, proposal.proposed_at) == register.Freed(3, 0, 2)
    also = place(archive, records=tuple(late))
    said = released(archive, proposal)
    assert (said["released"], said["still_held"], said["since_proposed"]) == (3, 2, 2)
    assert members(archive, also.hold_id) == set(late)


def test_what_is_being_destroyed_is_told_as_too_late_and_never_a_member(archive: Archive) -> None:
    early, late, gone = deposit(archive, Doc("one"), Doc("two"), Doc("three"))
    execute(archive, "UPDATE records SET state = %s WHERE record_id = %s", RecordState.DESTROYING, late)
    execute(archive, "UPDATE records SET state = %s WHERE record_id = %s", RecordState.DESTROYED, gone)
    placed = place(archive, classes=("FIN",))
    assert placed.too_late == (late,)
    assert members(archive, placed.hold_id) == {early}
    named = place(archive, records=(early, late, gone))
    assert set(named.too_late) == {late, gone}, "who asks for a record by its id is told that it is gone"
    with transaction(archive.connections) as conn:
        last = catalog.history(conn, archive, late)[-1]
    assert (last["type"], last["outcome"], last["detail"]["too_late"]) == ("poa", "failure", 2)


def test_a_review_moves_the_day_and_says_so(archive: Archive) -> None:
    (one,) = deposit(archive, Doc("one"))
    placed = place(archive, records=(one,))
    for _ in range(2):
        holds.review(archive, placed.hold_id, date(2098, 1, 1), utc())
    with transaction(archive.connections) as conn:
        shown = register.show(conn, archive, placed.hold_id)
    assert shown["review_on"] == date(2098, 1, 1)
    assert [event["detail"].get("was") for event in shown["events"]] == [None, None, "2099-01-01"]
    with pytest.raises(UsageError):
        holds.review(archive, placed.hold_id, utc().date(), utc())


# ---------------------------------------------------------------- what arrives later


def test_a_dynamic_hold_takes_in_what_arrives_and_a_static_one_does_not(archive: Archive) -> None:
    deposit(archive, Doc("before, about embezzlement"))
    dynamic = place(archive, Mode.DYNAMIC, text="embezzlement", sources=("inbox",))
    static = place(archive, text="embezzlement", sources=("inbox",))
    top, child, _, dark = deposit(
        archive, Doc("mail", children=(Doc("embezzlement again"),)), Doc("weather"), Doc("", codes=("TEXT-EMPTY",))
    )
    deposit(archive, Doc("embezzlement elsewhere"), source="branch")
    assert members(archive, dynamic.hold_id) >= {top, child, dark}
    assert len(members(archive, dynamic.hold_id)) == 4
    assert len(members(archive, static.hold_id)) == 1
    with transaction(archive.connections) as conn:
        event = catalog.history(conn, archive, child)[-1]
        assert event["detail"] == {"hold": str(dynamic.hold_id), "arrived": 3}
    flags.drain(archive, utc())
    assert flagged(archive, child)
    release(archive, dynamic.hold_id, utc())
    (late,) = deposit(archive, Doc("embezzlement, too late"))
    assert execute(archive, "SELECT FROM hold_members WHERE record_id = %s", late) == []


def test_a_dynamic_hold_waits_for_a_case_that_nobody_knows_yet(archive: Archive) -> None:
    placed = place(archive, Mode.DYNAMIC, aggregations=("patient:12",), sources=("clinic",), classes=("NEW",))
    assert placed.members == 0


def test_a_revised_description_is_judged_again(archive: Archive) -> None:
    (record,) = deposit(archive, Doc("scanned, not read"))
    dynamic = place(archive, Mode.DYNAMIC, text="embezzlement")
    with transaction(archive.connections) as conn:
        holds.shared(conn)
        descriptors.describe(conn, [(record, 2, "record", described(Doc("read now: embezzlement"), "inbox"))])
        ledger.append(conn, holds.arrived(conn, archive, [record], utc()), utc())
    assert members(archive, dynamic.hold_id) == {record}


def test_holds_reach_quarantine_and_stay_with_what_is_released_from_it(archive: Archive) -> None:
    locked, other = (
        detain(archive, Doc("", codes=("PDF-ENCRYPTED",))),
        detain(archive, Doc("harmless"), source="branch"),
    )
    placed = place(archive, text="embezzlement", classes=("FIN",))
    assert (placed.members, placed.quarantined, placed.unsearchable) == (0, 1, 0)
    named = place(archive, records=(locked,))
    assert named.quarantined == 1
    flags.drain(archive, utc())
    ((version,),) = execute(archive, "SELECT version FROM quarantine WHERE quarantine_id = %s", locked)
    assert archive.vault.stat(f"quarantine/{locked}", version).hold
    other_words = place(archive, Mode.DYNAMIC, text="harvest")
    assert other_words.quarantined == 1  # what nobody has read
    made, (record, child) = batch(archive, (Doc("opened: embezzlement", children=(Doc("attached"),)),), "inbox", utc())
    capture.capture(archive, made, utc, releasing=locked)
    for hold in (placed, named, other_words):  # the last one too: reading it releases nothing
        assert members(archive, hold.hold_id) == {record, child}
    assert execute(archive, "SELECT FROM hold_quarantined WHERE quarantine_id = %s", locked) == []
    assert execute(archive, "SELECT count(*) FROM hold_members_released WHERE record_id = %s", locked) == [(3,)]
    flags.drain(archive, utc())
    assert flagged(archive, record) and not archive.vault.stat(f"quarantine/{locked}", version).hold
    assert [*flags.drift(archive)] == []
    with transaction(archive.connections) as conn:
        assert {"arrived": 2} in [
            {"arrived": event["detail"].get("arrived")} for event in catalog.history(conn, archive, record)
        ]
    made, (free,) = batch(archive, (Doc("harmless"),), "branch", utc())
    capture.capture(archive, made, utc, releasing=other)
    assert execute(archive, "SELECT FROM hold_members WHERE record_id = %s", free) == []
    for hold in (placed, named, other_words):
        release(archive, hold.hold_id, utc())
    flags.drain(archive, utc())
    assert not flagged(archive, record)


# ---------------------------------------------------------------- invariant 5: who comes first


OTHER = "the other"


@contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[None]:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name=OTHER)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)
    assert not thread.is_alive()
    assert failures == []


def waiting(conn: Connection) -> bool:
    """Whether somebody waits for an advisory lock."""
    row = conn.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchone()
    return row is not None and row[0] > 0


def until_waiting(archive: Archive) -> None:
    """Raises if nobody comes to wait: then the order is not enforced."""
    end = utc() + timedelta(seconds=10)
    while utc() < end:
        with transaction(archive.connections) as conn:
            if waiting(conn):
                return
    raise AssertionError("nobody waited")


def test_a_hold_waits_for_a_capture_under_way_and_sees_its_records(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    deposit(archive, Doc("one"))
    captured, placed = threading.Event(), list[Placed]()
    original = ledger.append

    def slow(*args: Any) -> int:
        if threading.current_thread().name == OTHER:
            captured.set()
            until_waiting(archive)
        return original(*args)

    monkeypatch.setattr(ledger, "append", slow)
    made, (record,) = batch(archive, (Doc("two"),), "inbox", utc())
    with in_thread(lambda: capture.capture(archive, made, utc)):
        assert captured.wait(10)
        placed.append(place(archive, classes=("FIN",)))
    assert record in members(archive, placed[0].hold_id)


def test_a_capture_waits_for_a_hold_under_way_and_obeys_it(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    deposit(archive, Doc("one"))
    taken = threading.Event()
    original = flags.want

    def slow(*args: Any) -> None:
        original(*args)
        if threading.current_thread().name == OTHER:
            taken.set()
            until_waiting(archive)

    monkeypatch.setattr(flags, "want", slow)
    made, (record,) = batch(archive, (Doc("two"),), "inbox", utc())
    with in_thread(lambda: place(archive, Mode.DYNAMIC, classes=("FIN",))):
        assert taken.wait(10)
        capture.capture(archive, made, utc)
    ((hold_id,),) = execute(archive, "SELECT hold_id FROM holds")
    assert record in members(archive, hold_id)


def test_a_hold_and_a_destruction_never_both_have_a_record(archive: Archive) -> None:
    """Whatever the order: destroying marks what no hold has, a hold takes what is not being destroyed."""
    records = deposit(archive, *(Doc(f"number {n}") for n in range(40)))
    tooken, told = list[UUID](), list[UUID]()

    def destroy() -> None:
        for record in records:
            with transaction(archive.connections) as conn:
                holds.shared(conn)
                tooken.extend(
                    row[0]
                    for row in conn.execute(
                        "UPDATE records r SET state = 2 WHERE record_id = %s AND state = 1 "
                        "AND NOT EXISTS (SELECT FROM hold_members m WHERE m.record_id = r.record_id) "
                        "RETURNING record_id",
                        (record,),
                    )
                )

    with in_thread(destroy):
        for count in range(0, 40, 4):
            told.extend(place(archive, records=tuple(records[count : count + 4])).too_late)
    assert execute(archive, "SELECT FROM records JOIN hold_members USING (record_id) WHERE state <> 1") == []
    held = {row[0] for row in execute(archive, "SELECT record_id FROM hold_members")}
    assert held | set(told) == set(records)
    assert set(told) == set(tooken)


def test_a_release_waits_for_what_arrives_and_leaves_nothing_frozen(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    deposit(archive, Doc("one"))
    placed = place(archive, Mode.DYNAMIC, classes=("FIN",))
    captured = threading.Event()
    original = ledger.append

    def slow(*args: Any) -> int:
        if threading.current_thread().name == OTHER:
            captured.set()
            until_waiting(archive)
        return original(*args)

    monkeypatch.setattr(ledger, "append", slow)
    made, _ = batch(archive, (Doc("two"),), "inbox", utc())
    with in_thread(lambda: capture.capture(archive, made, utc)):
        assert captured.wait(10)
        assert release(archive, placed.hold_id, utc())["released"] == 2
    assert execute(archive, "SELECT FROM hold_members") == []


# ---------------------------------------------------------------- the vault's flags


def test_drift_is_found_and_mended(archive: Archive) -> None:
    one, two, three = deposit(archive, Doc("one"), Doc("two"), Doc("three"))
    place(archive, records=(one,))
    assert [(d.subject_id, d.queued) for d in flags.drift(archive)] == [(one, True)]
    flags.drain(archive, utc())
    assert [*flags.drift(archive)] == []
    for record, on in ((one, False), (two, True)):
        ((digest, version),) = execute(
            archive, "SELECT sealed_sha256, version FROM contents WHERE record_id = %s", record
        )
        archive.vault.hold(f"records/{record}/{digest.hex()}", version, on)
    execute(archive, "UPDATE contents SET sealed_sha256 = sha256('') WHERE record_id = %s", three)
    found = {drift.subject_id: drift for drift in flags.drift(archive)}
    assert {key: (d.wanted, d.found, d.queued) for key, d in found.items()} == {
        one: (True, False, False),
        two: (False, True, False),
        three: (False, None, False),
    }
    assert {d.subject_id for seed in range(40) for d in flags.drift(archive, 30.0, seed)} == set(found)
    assert {d.subject_id for d in flags.drift(archive, 0.0)} == set()
    flags.mend(archive, [*found.values()], utc())
    assert flags.drain(archive, utc()).set == 2
    assert (flagged(archive, one), flagged(archive, two)) == (True, False)
    assert [d.subject_id for d in flags.drift(archive)] == [three]


def test_flags_of_what_was_destroyed_leave_the_queue(archive: Archive) -> None:
    one, two = deposit(archive, Doc("one"), Doc("two"))
    placed = place(archive, records=(one, two))
    flags.drain(archive, utc())
    release(archive, placed.hold_id, utc())
    execute(archive, "DELETE FROM contents WHERE record_id = %s", one)
    drained = flags.drain(archive, utc())
    assert (drained.set, drained.failed, drained.waiting) == (1, 0, 0)
    place(archive, records=(one,))  # held, and its content in no list: a defect that stays in sight
    drained = flags.drain(archive, utc())
    assert (drained.failed, drained.waiting) == (1, 1)
    assert "Restore the catalog" in (drained.problem or "")


def test_a_folder_keeps_flags_too(settings: Settings, tmp_path: Path) -> None:
    with open_archive(replace(settings, vault_url=f"file://{tmp_path}/vault"), utc()) as archive:
        (record,) = deposit(archive, Doc("one"))
        placed = place(archive, records=(record,))
        assert flags.drain(archive, utc()).set == 1
        assert flagged(archive, record)
        with pytest.raises(Refused, match="legal hold"):
            ((digest,),) = execute(archive, "SELECT sealed_sha256 FROM contents")
            archive.vault.erase(f"records/{record}/{digest.hex()}")
        release(archive, placed.hold_id, utc())
        flags.drain(archive, utc())
        assert not flagged(archive, record)


def test_a_pass_may_be_short(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    place(archive, records=tuple(deposit(archive, *(Doc(str(n)) for n in range(5)))))
    monkeypatch.setattr(flags, "_AT_ONCE", 2)
    drained = flags.drain(archive, utc(), at_most=3)
    assert (drained.set, drained.waiting) == (4, 1)
    assert flags.drain(archive, utc()).waiting == 0


# ---------------------------------------------------------------- the report, and what is handed out


def test_the_report_shows_holds_and_what_is_owed(archive: Archive) -> None:
    one, two = deposit(archive, Doc("one"), Doc("two"))
    first = place(archive, records=(one, two))
    second = place(archive, records=(one,), matter=replace(MATTER, review_on=date(2098, 1, 1)))
    place(archive, Mode.DYNAMIC, aggregations=("patient:12",))

    def status(now: datetime) -> dict[str, Status]:
        report = reports.compile_report(archive, now.date(), now)
        found = report.frozen
        assert found is not None
        assert found.lines[0].hold_id == second.hold_id
        assert {line.hold_id: line.records.value for line in found.lines}[first.hold_id] == 2
        assert (found.holds.value, found.records.value) == (3, 2)
        assert report.behind(found.records).count == 2
        assert "Numbers and their lists" not in [c.title for c in report.checks if c.status is Status.RED]
        return {check.id: check.status for check in report.checks}

    found = status(utc())
    assert (found["holds"], found["hold-flags"]) == (Status.GREEN, Status.AMBER)
    assert status(utc() + timedelta(hours=25))["hold-flags"] is Status.RED
    flags.drain(archive, utc())
    found = status(datetime(2098, 1, 2, tzinfo=UTC))
    assert (found["holds"], found["hold-flags"]) == (Status.RED, Status.GREEN)


def test_what_is_held_is_produced_with_its_audit_trail_once(archive: Archive, tmp_path: Path) -> None:
    one, two = deposit(archive, Doc("one", title="letter"), Doc("two"))
    placed = place(archive, records=(one, two))
    for _ in range(2):
        bag = production.produce(archive, placed.hold_id, tmp_path / "bag", utc)
    assert set(bag.records) == {one, two}
    assert bag.findings == ()
    assert verify_bag(tmp_path / "bag", 2) == ()
    with transaction(archive.connections) as conn:
        assert [e["type"] for e in catalog.history(conn, archive, one)].count("exp") == 1
        assert [e["type"] for e in catalog.history(conn, archive, placed.hold_id)] == ["poa", "poa", "exp"]
    release(archive, placed.hold_id, utc())
    with pytest.raises(Refused, match="has no records"):
        production.produce(archive, placed.hold_id, tmp_path / "other", utc)


def test_no_record_under_a_hold_is_due(archive: Archive) -> None:
    from retention import eligibility

    one, two = deposit(archive, Doc("one"), Doc("two"))
    place(archive, records=(one,))
    with transaction(archive.connections) as conn:
        schedule = policy.current(conn).schedule
        due = {row.record_id for row in eligibility.due_records(conn, schedule, date(2026, 11, 22))}
    assert due == {two}

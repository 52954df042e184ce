"""The life of a record in words: every event that can be appended has some, and one whole life is frozen.

`everything` makes each kind of event happen once, through the doors that make it happen. The life of one record is
tests/golden/life.txt: ids and digests are numbered there in the order in which they appear. `python -m
tests.integration.test_life` is not a program: to freeze it anew, delete the file, run the test, and read what it wrote.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from retention import (
    aggregations,
    approvals,
    auditors,
    backup,
    capture,
    custody,
    fixity,
    holds,
    ledger,
    locked_keys,
    locks,
    orphans,
    policy,
    probing,
    quarantine,
    reading,
    rekeying,
    requests,
    runs,
    triggers,
    unwrapping,
    verification,
)
from retention.aggregations import Aggregation
from retention.archive import Archive, open_archive
from retention.backup import checking, points, pruning, reach
from retention.cli import _print_life
from retention.config import BackupVault, Settings
from retention.database import transaction
from retention.disposition import execution, proposing, rejected, reviewing, transfers
from retention.disposition.reviewing import Decided, Decision, Selection
from retention.errors import NotFound, Refused
from retention.exporting import Place, export
from retention.history import keys, wording
from retention.history.life import Life, life
from retention.history.offline import Problem
from retention.holds import Matter, flags, production
from retention.holds.register import Mode
from retention.holds.scopes import Scope
from retention.model import Batch, Coded, Description, Turned, new_id
from retention.packages import bags
from retention.reading import Reader
from retention.recovery import Restored, drill, telling
from retention.recovery.drill import Drilled
from retention.requests import answers, register
from retention.requests.register import Asked, Extension, Ground
from retention.requests.subjects import Subject
from retention.triggers import Change, Given, Retraction
from retention.vault import open_vault
from retention.verification import Verification
from retention.verification.tables import tell_history
from tests.archive_builder import SCHEDULE, Document, capture_all, enrol, load, sign
from tests.deposits import Doc, batch, deposit, detain

Clock = Callable[[], datetime]
SOURCE = Path(wording.__file__).parents[1]
GOLDEN = Path(__file__).parents[1] / "golden/life.txt"
EVERYTHING = Selection(everything=True)
APPROVE = Decided(Decision.APPROVE)
MATTER = Matter("Levi v. Cohen", "court order 12/26", date(2099, 1, 1))
CHILD = """\
  - id: CHILD
    title: A child's file
    action: destroy
    unit: aggregation
    personal_data: {subjects: [patients]}
    rules:
      - {id: grown-up, trigger: "event:birth", period: P25Y, verified: true, authority: *house}
"""
PERSONAL = SCHEDULE.replace("  - id: SYS-CERT", CHILD + "  - id: SYS-CERT")
BORN = date(1987, 6, 5)

# Every place that appends an event. A new one is to be named here once its words stand in retention/history/wording.py
# and `everything` makes it happen.
PLACES = {
    "aggregations": {"insert"},
    "auditors": {"_enter"},
    "backup/__init__": {"_enter", "join", "leave"},
    "backup/checking": {"_enter"},
    "backup/pruning": {"_enter"},
    "backup/reach": {"_enter"},
    "approvals": {"_enrol", "end", "propose", "revoke_approved", "sign"},
    "capture": {"_events"},
    "custody": {"_enter", "_enter_gone", "escrow"},
    "disposition/certificate": {"issue"},
    "disposition/erasure": {"_empty_aggregations", "_finish", "_unreadable"},
    "disposition/execution": {"_start", "_take"},
    "disposition/plans": {"begin_stage", "remains"},
    "disposition/proposing": {"_appraised", "announce", "propose"},
    "disposition/rejected": {"sweep", "take_effect"},
    "disposition/reviewing": {"_lapse", "_progress", "_word", "approved", "review"},
    "disposition/transfers": {"acknowledge", "give_up"},
    "exporting": {"_events"},
    "fixity": {"_enter", "_heal"},
    "history/keys": {"_introduce"},
    "holds/__init__": {"_held", "_joined", "_too_late", "place", "review", "take_effect"},
    "holds/production": {"produce"},
    "locked_keys": {"_forget", "_write"},
    "locks": {"reconcile"},
    "orphans": {"_enter"},
    "packages/__init__": {"handed_out"},
    "policy": {"_put_in_force"},
    "probing": {"probe"},
    "quarantine": {"reject", "release"},
    "reading": {"_append", "_forgotten"},
    "rekeying": {"_drop", "_move"},
    "recovery/drill": {"_enter", "_enter_failure"},
    "recovery/telling": {"lose", "moved", "restored", "unrecovered"},
    "requests/answers": {"give", "restrict"},
    "requests/register": {"close", "enter", "extend", "lift"},
    "runs": {"close", "interrupt", "observe", "start"},
    "triggers/recording": {"record"},
    "unwrapping": {"_enter"},
    "verification/__init__": {"enter"},
}


@pytest.fixture
def ready(settings: Settings, tmp_path: Path, clock: Clock) -> Iterator[Archive]:
    (tmp_path / "vault").mkdir()
    named = replace(settings, vault_url=f"file://{tmp_path}/vault", agent="Noa Bar")
    with open_archive(named, clock()) as archive:
        load(archive, clock, PERSONAL)
        enrol(archive, clock)
        yield archive


def change(archive: Archive, wanted: Change, clock: Clock) -> None:
    """By two people, where it needs two."""
    try:
        triggers.change(archive, wanted, clock())
    except Refused:
        sign(archive, triggers.propose(archive, wanted, clock()).id, clock())


def planned(archive: Archive, clock: Clock) -> UUID:
    """A plan of all that is due, approved."""
    plan_id = proposing.propose(archive, clock()).plan
    assert plan_id is not None
    for _ in range(2):
        with transaction(archive.connections) as conn:
            if approvals.show(conn, plan_id).statement is None:
                reviewing.review(archive, plan_id, EVERYTHING, APPROVE, clock())
    sign(archive, plan_id, clock())
    return plan_id


def release(archive: Archive, hold_id: UUID, clock: Clock) -> None:
    sign(archive, holds.propose_release(archive, hold_id, clock()).id, clock())
    flags.drain(archive, clock())


def receipt(path: Path, archive: Archive, plan_id: UUID, turned_down: UUID) -> Path:
    bag = bags.read_bag(transfers.bag_folder(archive, plan_id))
    said: dict[str, Any] = {"bag": bag.identifier, "digest": bag.digest.hex(), "receiver": "State Archives"}
    said |= {"received_at": "2026-11-23T10:00:00+02:00"}
    said["accepted"] = [str(record) for record in bag.records if record != turned_down]
    said["rejected"] = [{"id": str(turned_down), "reason": "damaged"}]
    path.write_text(json.dumps(said))
    return path


def entries(archive: Archive) -> list[dict[str, Any]]:
    with transaction(archive.connections) as conn:
        return [json.loads(bytes(row[0])) for row in conn.execute("SELECT entry FROM events ORDER BY position")]


def told(archive: Archive, subject: UUID) -> Life:
    with transaction(archive.connections) as conn:
        return life(conn, archive, subject)


# ---------------------------------------------------------------- everything that can happen


def everything(archive: Archive, clock: Clock, folder: Path) -> dict[str, UUID]:
    """Every kind of event, once; the ids of whom it happened to."""
    ids = _come_in(archive, clock, folder)
    _happens(archive, clock, ids)
    _holds(archive, clock, ids, folder)
    _requests(archive, clock, ids, folder)
    _disposition(archive, clock, ids, folder)
    _late(archive, clock, ids, folder)
    assert reading.forget(archive, clock() + timedelta(days=6 * 366)) == 1
    assert rekeying.rekey(archive, clock).dropped
    keys.create(archive, "records.example.org/ledger", clock())
    keys.rotate(archive, clock())
    _backs_up(archive, clock, ids, folder)
    auditors.open_class(archive, auditors.EVERY, "CHILD", clock())
    auditors.open_class(archive, auditors.EVERY, "LONG", clock())
    auditors.close_class(archive, auditors.EVERY, "CHILD", clock())
    _night(archive, clock, ids, folder)
    lost = archive.vault.put(f"records/{new_id(clock())}/x", b"x", sha256=hashlib.sha256(b"x").digest(), size=1)
    os.utime(folder / "vault" / lost.key, times=((clock() - timedelta(days=9)).timestamp(),) * 2)
    assert orphans.sweep(archive, orphans.find(archive, clock()), clock()).erased == 1
    for kept in (None, "it is gone"):
        store: Any = SimpleNamespace(probe=lambda kept=kept: {"delete": kept}, url="s3://a-store")
        assert probing.probe(replace(archive, vault=store), clock()).failed == (["delete"] if kept else [])
    assert reach.prove(archive, ids["plan"], lambda: clock() + timedelta(days=8)).certificate_id
    return ids


def _come_in(archive: Archive, clock: Clock, folder: Path) -> dict[str, UUID]:
    documents = [Document("STAGED", f"staged {n}") for n in range(4)]
    documents += [
        Document("CHILD", "a letter", case=("patient", "ZQ-4711"), children=1),
        Document("NOTICED", "noticed"),
    ]
    documents += [Document("LONG", "kept"), Document("LONG", "moved")]
    documents += [Document("LOCKED", "locked", received=clock().date()), Document("DESCRIBED", "remembered")]
    records = capture_all(archive, documents, clock, folder / "in")
    names = ["approved", "extended", "relabelled", "held", "letter", "noticed", "kept", "moved", "locked", "remembered"]
    ids = dict(zip(names, records, strict=True))
    made, (first,) = batch(archive, (Doc("one version", "LONG", place="in/17"),), "inbox", clock())
    capture.capture(archive, made, clock)
    newer, (second,) = batch(archive, (Doc("the next version", "LONG", place="in/17"),), "inbox", clock())
    before = made.admitted[0].sighting.content
    unit = replace(newer.admitted[0], sighting=replace(newer.admitted[0].sighting, replaces=before))
    capture.capture(archive, replace(newer, admitted=(unit,)), clock)
    ids |= {"superseded": first, "newer": second}
    turned = Turned(
        new_id(clock()), Description("x.exe", "inbox", "x.exe", findings=(Coded("NO-TEXT", "reject", "no"),))
    )
    run_id = new_id(clock())
    runs.start(archive, run_id, "inbox", 1, clock())
    capture.capture(archive, Batch(run_id, 0, rejected=((None, turned),)), clock)
    runs.close(archive, run_id, 2, 0, clock())  # one is in no list
    runs.start(archive, dead := new_id(clock()), "inbox", 1, clock())
    runs.interrupt(archive, dead, clock())
    for success in (True, False):
        runs.observe(archive, "ingest_inbox", "scheduled", success, clock())
    ids |= {
        "turned away": turned.item_id,
        "rejected": detain(archive, Doc("rejected"), now=clock()),
        "guarded": detain(archive, Doc("g"), now=clock()),
    }
    ids["released"] = detain(archive, Doc("released", place="bill"), now=clock())
    made, (ids["released record"],) = batch(archive, (Doc("released", "LONG", place="bill"),), "inbox", clock())
    capture.capture(archive, made, clock, releasing=ids["released"])
    for name in ("rejected", "guarded"):
        quarantine.reject(archive, ids[name], "not-a-record", clock())
    return ids


def _happens(archive: Archive, clock: Clock, ids: dict[str, UUID]) -> None:
    patient = aggregations.identity(archive.safe, Aggregation("patient", "ZQ-4711"))
    ids["patient"] = patient
    change(archive, Change((Given(patient, "birth", date(1999, 9, 9), "a mistake"),)), clock)
    with transaction(archive.connections) as conn:
        ((wrong,),) = conn.execute("SELECT trigger_event_id FROM trigger_events WHERE subject_id = %s", (patient,))
    change(archive, Change(retractions=(Retraction(wrong, "read it wrong"),)), clock)
    change(archive, Change(suspensions=((patient, date(2015, 4, 1), "litigation"),)), clock)
    with transaction(archive.connections) as conn:
        ((suspension,),) = conn.execute("SELECT suspension_id FROM suspensions")
    change(archive, Change(resumptions=((suspension, date(2015, 4, 9)),)), clock)
    change(archive, Change((Given(patient, "birth", BORN),)), clock)
    change(archive, Change(suspensions=((ids["kept"], date(2024, 4, 1), "litigation"),)), clock)
    with transaction(archive.connections) as conn:
        now = clock()
        ledger.append(conn, aggregations.ensure(conn, archive, [Aggregation("contract", "7")], now), now)
    change(
        archive,
        Change(members=((ids["moved"], aggregations.identity(archive.safe, Aggregation("contract", "7"))),)),
        clock,
    )
    proposal = approvals.revoke(archive, archive.safe.pseudonym("person", "Noa Bar"), clock())
    approvals.withdraw(archive, proposal.id, clock())
    sign(archive, approvals.revoke(archive, archive.safe.pseudonym("person", "Noa Bar"), clock()).id, clock())
    policy.load(archive, PERSONAL.replace("P30Y", "P31Y"), "test.yaml", clock())


def _holds(archive: Archive, clock: Clock, ids: dict[str, UUID], folder: Path) -> None:
    static = holds.place(archive, Scope(records=(ids["letter"], ids["guarded"])), Mode.STATIC, MATTER, clock()).hold_id
    (ids["guard"],) = (holds.place(archive, Scope(records=(ids["guarded"],)), Mode.STATIC, MATTER, clock()).hold_id,)
    dynamic = holds.place(archive, Scope(classes=("LAW",)), Mode.DYNAMIC, MATTER, clock()).hold_id
    found, _ = reading.find(archive, "letter", None, 10, Reader("unstated", clock()))
    assert len(found) == 2
    (ids["newcomer"],) = deposit(archive, Doc("newcomer", "LAW", title="newcomer"), now=clock())
    with transaction(archive.connections) as conn:
        conn.execute("UPDATE records SET state = 2 WHERE record_id = %s", (ids["kept"],))
    assert holds.place(archive, Scope(records=(ids["kept"],)), Mode.STATIC, MATTER, clock()).too_late
    with transaction(archive.connections) as conn:
        conn.execute("UPDATE records SET state = 1 WHERE record_id = %s", (ids["kept"],))
    holds.review(archive, static, date(2098, 1, 1), clock())
    production.produce(archive, static, folder / "produced", clock)
    both, lawsuit = [ids["letter"], ids["kept"]], Reader("lawsuit", clock())
    export(archive, both, Place(folder / "files"), lawsuit, "Adv. Peretz")
    export(archive, both, Place(folder / "sealed", keys=folder / "opens"), lawsuit)
    (content,) = (folder / "vault" / "records" / str(ids["newer"])).iterdir()
    content.rename(folder / "away")
    assert export(archive, [ids["newer"]], Place(folder / "newer"), lawsuit).findings
    (folder / "away").rename(content)
    release(archive, static, clock)
    release(archive, dynamic, clock)


def _requests(archive: Archive, clock: Clock, ids: dict[str, UUID], folder: Path) -> None:
    asked = Asked(Subject("patient:ZQ-4711"), by="Rina Zilberquist")
    copy = requests.access(archive, asked, folder / "copy", None, clock)
    register.extend(archive, copy.request.id, Extension.COMPLEXITY, clock())
    register.close(archive, copy.request.id, clock())
    limited = requests.restrict(archive, replace(asked, ground=Ground.ACCURACY), clock())
    register.lift(archive, limited.request.id, clock())
    contract = Asked(Subject("contract:7"))
    requests.erase(archive, contract, clock())
    now = clock()
    with transaction(archive.connections) as conn:
        cases = [Aggregation("contract", number) for number in "89"]
        ledger.append(conn, aggregations.ensure(conn, archive, cases, now), now)
    eighth, ninth = (aggregations.identity(archive.safe, case) for case in cases)
    members = ((ids["moved"], eighth), (ids["remembered"], ninth))
    change(archive, Change((Given(eighth, "birth", BORN),), members=members), clock)
    requests.erase(archive, contract, clock())  # it is no longer there
    requests.restrict(archive, Asked(Subject("contract:9"), ground=Ground.CLAIMS), clock())


def _disposition(archive: Archive, clock: Clock, ids: dict[str, UUID], folder: Path) -> None:
    assert proposing.announce(archive, clock()) == {"NOTICED": 1}
    plan_id = proposing.propose(archive, clock()).plan
    assert plan_id is not None
    reviewing.review(archive, plan_id, EVERYTHING, APPROVE, clock())
    for name, decided in {
        "approved": APPROVE,
        "extended": Decided(Decision.EXTEND, "still-in-use", not_before=date(2027, 5, 1)),
        "relabelled": Decided(Decision.RELABEL, "wrong-class", to_class="LONG"),
        "held": Decided(Decision.HOLD, matter=Matter("Audit", "CFO", date(2099, 1, 1))),
    }.items():
        reviewing.review(archive, plan_id, Selection(records=(ids[name],)), decided, clock())
    sign(archive, plan_id, clock())
    execution.execute(archive, plan_id, clock)
    ids["plan"] = plan_id
    ids["handed"], ids["turned down"] = capture_all(
        archive, [Document("HANDED", "handed"), Document("HANDED", "turned down")], clock, folder / "handed"
    )
    plan_id = planned(archive, clock)
    execution.execute(archive, plan_id, clock)
    transfers.acknowledge(archive, plan_id, receipt(folder / "r.json", archive, plan_id, ids["turned down"]), clock())
    assert execution.execute(archive, plan_id, clock).outcomes == {"transferred": 1, "not-accepted": 1}
    given_up = planned(archive, clock)
    execution.execute(archive, given_up, clock)
    execution.give_up(archive, given_up, clock)


def _late(archive: Archive, clock: Clock, ids: dict[str, UUID], folder: Path) -> None:
    """What happens weeks later: a clock that went back would be refused."""
    release(archive, ids["guard"], clock)
    capture_all(archive, [Document("STAGED", "nobody decides")], clock, folder / "lapsing")
    lapsing = proposing.propose(archive, clock()).plan
    assert lapsing is not None
    assert reviewing.advance(archive, clock() + timedelta(days=11)) == ()
    assert reviewing.advance(archive, clock() + timedelta(days=40)) == (lapsing,)
    month = clock() + timedelta(days=31)
    proposal = rejected.propose(archive, month)
    assert proposal is not None
    holds.place(archive, Scope(records=(ids["guarded"],)), Mode.STATIC, replace(MATTER, name="later"), month)
    sign(archive, proposal.id, month)
    rejected.sweep(archive, month)


def _backs_up(archive: Archive, clock: Clock, ids: dict[str, UUID], folder: Path) -> None:
    """Points whole and broken, one taken away; then the second vault is let go."""
    disk = BackupVault("disk", f"file://{folder}/disk")
    settings = replace(archive.settings, backups=(disk,))
    with_disk = replace(archive, settings=settings, seconds={"disk": open_vault(disk.url)})
    (path,) = (folder / "vault" / "records" / str(ids["kept"])).iterdir()
    content = path.read_bytes()
    path.chmod(0o600)
    for there in (content[:-1], content):
        path.write_bytes(there)
        assert bool(backup.run(with_disk, "disk", clock).problems) == (there != content)
        assert bool(checking.check(with_disk, "disk", 1.0, clock()).problems) == (there != content)
    path.write_bytes(content[:-1])
    assert fixity.run(with_disk, 1.0, clock).healed == {ids["kept"]: "disk"}
    point = points.listed(with_disk.seconds["disk"])[-1]
    for older in (0, 1):
        tried = Restored(point, clock(), 1, 0, records=1, lost=[ids["kept"]] * older)
        drill._enter(with_disk, Drilled(new_id(clock()), "disk", tried, timedelta(0), older=older), clock())
    drill._enter_failure(with_disk, new_id(clock()), "disk", clock())
    copy = drill.Escrowed(archive.safe.root, "file")
    drill._enter(with_disk, Drilled(new_id(clock()), "disk", tried, timedelta(0), escrowed=copy), clock())
    drill._enter_failure(with_disk, new_id(clock()), "disk", clock(), copy)
    assert len(pruning.prune(with_disk, "disk", clock()).points) == 1
    backup.leave(with_disk, "disk", clock())
    custody.escrow(archive, 2, 2, folder / "shares", clock)
    custody.rotate(archive, clock)
    assert len(custody.forget(archive, lambda: clock() + timedelta(days=8))) == 1


def _night(archive: Archive, clock: Clock, ids: dict[str, UUID], folder: Path) -> None:
    """What is looked after, whole and then not; afterwards everything is as it was."""
    (path,) = (folder / "vault" / "records" / str(ids["kept"])).iterdir()
    content = path.read_bytes()
    for there in (content, content[:-1], content):
        path.chmod(0o600)
        path.write_bytes(there)
        assert fixity.run(archive, 1.0, clock).damaged.keys() == ({ids["kept"]} if there != content else set())
    path.chmod(0o400)
    for damaged in (False, True, False):
        with transaction(archive.connections) as conn:
            turn = "UPDATE subject_keys SET wrapped = set_byte(wrapped, 0, get_byte(wrapped, 0) # 1) "
            conn.execute(f"{turn} WHERE subject_id = %s AND %s".encode(), (ids["kept"], damaged))
        assert unwrapping.run(archive, 1.0, clock).damaged.keys() == ({ids["kept"]} if damaged else set())
        with transaction(archive.connections) as conn:
            conn.execute(f"{turn} WHERE subject_id = %s AND %s".encode(), (ids["kept"], damaged))
    with transaction(archive.connections) as conn:
        ((held, key, version),) = conn.execute(
            "SELECT record_id, 'records/' || record_id || '/' || encode(sealed_sha256, 'hex'), version "
            "FROM contents JOIN hold_members USING (record_id) LIMIT 1"
        ).fetchall()
    assert locked_keys.keep(archive, clock).objects == 1
    for stored in [*archive.vault.list("keys")]:
        (folder / "vault" / stored.key).unlink()
    assert locked_keys.keep(archive, clock).objects == 1
    flags.drain(archive, clock())
    for on in (True, False, True):
        archive.vault.hold(key, version, on)
        assert bool(locks.reconcile(archive, clock(), everything=True).differ) is not on, held
    for problems in ([], [Problem("table events", "an example")]):
        verification.enter(archive, Verification(1, bytes(32), problems=problems), clock())
    _restored(archive, clock, ids, folder)


def _restored(archive: Archive, clock: Clock, ids: dict[str, UUID], folder: Path) -> None:
    """What a restore tells (tests/integration/test_disaster.py does one): here beside an archive that is there."""
    (ids["lost"],) = capture_all(archive, [Document("LONG", "lost")], clock, folder / "lost")
    ids["lost document"] = detain(archive, Doc("lost document"), now=clock())
    for name, folder_ in (("lost", "records"), ("lost document", "quarantine")):
        for stored in archive.vault.list(folder_):
            if str(ids[name]) in stored.key:
                archive.vault.erase(stored.key)
    with transaction(archive.connections) as conn:
        agent, now = archive.agent, clock()
        scheduler = archive.safe.pseudonym("software", "ingest_inbox")
        conn.execute("UPDATE pseudonyms SET sealed_name = NULL WHERE pseudonym_id = %s", (scheduler,))
        conn.execute("DELETE FROM subject_keys WHERE subject_id = %s", (scheduler,))
        told = telling.lose(conn, agent, [ids["lost"]], [ids["lost document"]], now)
        told += telling.moved(agent, {ids["kept"]: ""}, now)
        told.append(telling.restored(agent, new_id(now), 1, 1, 2, 1, now))
        ledger.append(conn, told, now)
        tell_history(conn, [])
        ledger.append(conn, [*telling.unrecovered(conn, agent, now)], now)


# ---------------------------------------------------------------- each has words


def test_whatever_happens_has_words(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    ids = everything(ready, clock, tmp_path)
    happened = entries(ready)
    silent = [(e["type"], e["outcome"], sorted(e["detail"])) for e in happened if wording.shape_of(e) is None]
    assert silent == [], "give these words in retention/history/wording.py"
    seen = {id(wording.shape_of(entry)) for entry in happened}
    never = [(shape.code, shape.needs, shape.failed) for shape in wording.SHAPES if id(shape) not in seen]
    assert never == [], "these have words and did not happen: no such event, or `everything` does not make it"
    for subject in ids.values():
        for line in told(ready, subject).lines:
            text = f"{line.what} {line.why} {line.changed}"
            assert "{" not in text and "}" not in text and "None" not in text, text
            assert not re.search(r"\b(poa|ing|mem|dea|app|unq|tra)\b", text) and len(line.event) > 5
    _are_told(ready, ids)


def _are_told(archive: Archive, ids: dict[str, UUID]) -> None:
    """What each kind of life says."""

    def said(name: str) -> str:
        return "\n".join(f"{line.what}; {line.why}; {line.changed}" for line in told(archive, ids[name]).lines)

    for name, words in {
        "approved": ("destroyed: its key", "rule staged (House policy), schedule version 2", "certificate"),
        "extended": ("decided to keep it longer: until 2027-05-01; still in use", "executed to its end"),
        "relabelled": (
            "decided that it belongs to another class: class LONG (Kept long); wrong class",
            "moved to class LONG (Kept long)",
        ),
        "held": ("decided to hold it", "(“Audit”)"),
        "letter": (
            "(“Levi v. Cohen”)",
            "handed out to “Rina Zilberquist”",
            "handed out to “Adv. Peretz” as a file, with 1 other record",
            "handed out, sealed, with the key that opens it",
            "restricted: stored",
            "found by a search, with 1 other record",
        ),
        "noticed": ("notice was given",),
        "kept": ("came too late",),
        "moved": ("put into the case file “contract:7”",),
        "superseded": ("a newer version of it came in: 2020-01-01",),
        "newer": (f"it is the newer version of record {ids['superseded']}",),
        "handed": (
            "“State Archives” acknowledged the transfer: 1 accepted, 1 not",
            "after the receiver had accepted it",
        ),
        "turned down": ("the receiver did not accept it", "the transfer was given up"),
        "turned away": ("turned away", "found NO-TEXT", "does not add up"),
        "rejected": (
            "put into quarantine",
            "rejected from quarantine; not a record",
            "its key was destroyed",
            "erased",
        ),
        "guarded": ("not done: it is kept", "a hold has it"),
        "released": ("released from quarantine",),
        "released record": ("put into quarantine", "released from quarantine", "taken in as a record"),
        "newcomer": ("came under hold", "was released"),
        "lost": ("taken in as a record", "it is lost; its content or its key was in no copy"),
        "lost document": ("put into quarantine", "it is lost"),
    }.items():
        for one in words:
            assert one in said(name), (name, one, said(name))
    gone = told(archive, ids["approved"])
    assert gone.state == "destroyed" and gone.certificate is not None and gone.title is None
    assert told(archive, ids["rejected"]).state == "rejected"
    assert f"record {ids['newer']}" not in said("kept")  # each its own
    with pytest.raises(NotFound, match="nothing was ever recorded"):
        told(archive, UUID(int=7))


def test_every_place_that_appends_an_event_is_known() -> None:
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
            if any(isinstance(call, ast.Name) and call.id == "Event" for call in calls):
                found.setdefault(str(path.relative_to(SOURCE).with_suffix("")), set()).add(function.name)
    assert found == PLACES, "give it words, let `everything` make it happen, and name it in PLACES"


def test_every_code_of_ours_has_words() -> None:
    assert {kind.value for kind in approvals.Kind} == set(wording._KINDS)
    assert {given.value for given in answers.Given} == set(wording._ANSWERS)
    assert {kind.value for kind in register.Kind} == set(wording._REQUESTS)
    assert {decision.value for decision in Decision} == set(wording._DECISIONS)
    assert {*map(str, Ground), *map(str, Extension)} <= set(wording._CODES)


# ---------------------------------------------------------------- one whole life


def printed(archive: Archive, subject: UUID, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    _print_life(told(archive, subject))
    return capsys.readouterr().out


def numbered(text: str) -> str:
    """Ids and digests, which are random, as <1>, <2>, in order."""
    known: dict[str, str] = {}
    pattern = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{64}\b"
    return re.sub(pattern, lambda m: known.setdefault(m[0], f"<{len(known) + 1}>"), text)


def test_one_whole_life(ready: Archive, clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = ("patient", "ZQ-4711")
    other, letter = capture_all(
        ready, [Document("SHORT", "other"), Document("CHILD", "מכתב על הבציר", case=case)], clock, tmp_path / "in"
    )
    patient = aggregations.identity(ready.safe, Aggregation(*case))
    hold_id = holds.place(ready, Scope(records=(letter, other)), Mode.STATIC, MATTER, clock()).hold_id
    change(ready, Change(suspensions=((patient, date(2015, 4, 1), "tax-audit"),)), clock)
    with transaction(ready.connections) as conn:
        ((suspension,),) = conn.execute("SELECT suspension_id FROM suspensions")
    change(ready, Change(resumptions=((suspension, date(2015, 4, 9)),)), clock)
    change(ready, Change((Given(patient, "birth", BORN, "register"),)), clock)
    release(ready, hold_id, clock)
    reading.show(ready, letter, Reader("complaint", clock()))
    reading.show(ready, other, Reader("complaint", clock()))  # its class holds no personal data
    before = printed(ready, letter, capsys)
    assert (
        "“מכתב על הבציר”" in before and "1987-06-05" in before and "“patient:ZQ-4711”" not in before.partition("\n")[0]
    )
    assert execution.execute(ready, planned(ready, clock), clock).outcomes == {"destroyed": 2}
    after = printed(ready, letter, capsys)
    assert "מכתב" not in after and "1987-06-05" not in after and "its date is gone" in after
    found = numbered(f"As long as it is kept\n{before}\nWhen it is gone\n{after}")
    if not GOLDEN.exists():
        GOLDEN.write_text(found)
        pytest.fail(f"{GOLDEN.name} was not there, and is written anew: read it")
    assert found == GOLDEN.read_text()


def test_of_a_case_file_only_while_it_was_in_it(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    documents = [Document("LONG", name, case=("contract", name[-1])) for name in ("moves 1", "stays 1", "stays 2")]
    moves, stays, there = capture_all(ready, documents, clock, tmp_path / "in")
    one, two = (aggregations.identity(ready.safe, Aggregation("contract", number)) for number in "12")
    change(ready, Change(suspensions=((one, date(2019, 1, 1), "before"),)), clock)
    change(ready, Change(members=((moves, two),)), clock)
    change(ready, Change(suspensions=((one, date(2019, 1, 1), "after"), (two, date(2019, 1, 1), "beside"))), clock)
    why = [[line.why for line in told(ready, record).lines if "suspended" in line.what] for record in (moves, stays)]
    assert why == [["before", "beside"], ["before", "after"]]
    joined = [any("put into the case file" in line.what for line in told(ready, one).lines) for one in (moves, there)]
    assert joined == [True, False]


def test_of_a_restricted_record_nothing_is_opened(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    case = ("patient", "ZQ-4711")
    (letter,) = capture_all(ready, [Document("CHILD", "a letter", case=case)], clock, tmp_path / "in")
    patient = aggregations.identity(ready.safe, Aggregation(*case))
    change(ready, Change((Given(patient, "birth", BORN),)), clock)
    requests.restrict(ready, Asked(Subject("patient:ZQ-4711"), ground=Ground.ACCURACY), clock())
    found = told(ready, letter)
    said = " ".join(line.what for line in found.lines)
    assert found.title is None and "1987" not in said and "because the record is restricted" in said


def test_an_event_of_a_later_version_is_told_as_it_stands(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    (record,) = capture_all(ready, [Document("LONG", "x")], clock, tmp_path / "in")
    with transaction(ready.connections) as conn:
        ledger.append(conn, [ledger.Event("mig", clock(), ready.agent, (record,), detail={"to": "PDF/A"})], clock())
    last = told(ready, record).lines[-1]
    assert last.event == "migration" and '{"to": "PDF/A"}' in last.what and last.on_behalf_of == "Noa Bar"


def test_a_name_whose_key_is_gone_is_a_pseudonym(ready: Archive, clock: Clock, tmp_path: Path) -> None:
    (record,) = capture_all(ready, [Document("LONG", "x")], clock, tmp_path / "in")
    person = ready.safe.pseudonym("person", "Noa Bar")
    with transaction(ready.connections) as conn:
        conn.execute("DELETE FROM subject_keys WHERE subject_id = %s", (person,))
    assert {line.on_behalf_of for line in told(ready, record).lines} == {str(person)}

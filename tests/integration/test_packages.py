"""Records handed out: what leaves is what came in, listed, with its history, and checked by a library not ours."""

from __future__ import annotations

import csv
import io
import json
import logging
import shutil
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import bagit
import pytest
from lxml import etree

from ingest import pipeline, sources
from ingest.extraction.workers import Workers
from retention import ledger, merkle, policy, runs
from retention.archive import Archive, load_key
from retention.capture import capture
from retention.database import transaction
from retention.errors import Refused, ServiceUnavailable, UsageError
from retention.model import Batch, Deposit, Description, Sighting, Unit, new_id
from retention.packages import Purpose, handed_out, premis, write_bag
from retention.packages.acknowledgements import read_acknowledgement
from retention.packages.bags import Bag, read_bag
from retention.packages.check import verify_bag
from retention.tlog.tiles import MAX_ENTRY
from retention.vault.base import Vault
from tests.owning import owning

Clock = Callable[[], datetime]
SAMPLES = Path(__file__).parents[1] / "samples" / "documents"
CHOSEN = (
    "accounts/חשבונית-מס-2045.pdf",
    "clinic/סיכום-ביקור.rtf",
    "consulting/פרוטוקול-2004.txt",
    "hr/osha-300-log-2012.xlsx",
    "mail/signed-agreement.eml",
)
P = {"p": premis.NAMESPACE}


def keep(archive: Archive, folder: Path, clock: Clock, names: Sequence[str], content: bytes = b"kept\n") -> list[UUID]:
    """Records of these names, captured without the pipeline; each has its name in its bytes."""
    folder.mkdir(exist_ok=True)
    version = policy.load(archive, policy.sample(), "sample", clock()).version
    run_id = new_id(clock())
    runs.start(archive, run_id, "folder", version, clock())
    units, kept = [], []
    for number, name in enumerate(names):
        body = content + name.encode("utf-8", "surrogateescape")
        spooled = folder / str(number)
        spooled.write_bytes(body)
        record_id = new_id(clock())
        described = Description(
            name=name,
            source="folder",
            place=f"inbox/{name}",
            title="A title | with a pipe\nand a line",
            mime="text/plain",
            puid="x-fmt/111",
            sha256=sha256(body).digest(),
            text=zlib.compress(b"the words of it"),
            metadata={"created": "2020-02-03T00:00:00+00:00"},
        )
        sighting = Sighting(
            archive.safe.place("folder", f"{run_id}/{number}"), archive.safe.content(sha256(body).digest())
        )
        deposit = Deposit(
            *(record_id, spooled, sha256(body).digest(), len(body), "IL-FIN-010", "rule"),
            description=described,
            received=date(2026, 1, 2),
        )
        units.append(Unit(sighting, (deposit,)))
        kept.append(record_id)
    capture(archive, Batch(run_id, 0, admitted=tuple(units)), clock)
    runs.close(archive, run_id, len(names), 0, clock())
    return kept


def bag_of(archive: Archive, records: Sequence[UUID], target: Path, clock: Clock, **options: Any) -> Bag:
    given = {"purpose": Purpose.TRANSFER, "identifier": "plan-1"} | options
    return write_bag(archive, records, target, clock=clock, **given)


def listed(bag: Bag) -> list[dict[str, str]]:
    with (bag.path / "metadata/nara.psv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="|", strict=True))


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module", autouse=True)
def quiet() -> None:
    logging.getLogger("bagit").setLevel(logging.ERROR)


def test_samples_leave_as_they_came(archive: Archive, tmp_path: Path, clock: Clock) -> None:
    inbox = tmp_path / "inbox"
    for name in CHOSEN:
        (inbox / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLES / name, inbox / name)
    with Workers() as staff:
        pipeline.ingest(archive, sources.source_at(str(inbox), inbox), clock, workers=staff)
    with transaction(archive.connections) as conn:
        known: dict[UUID, tuple[str, bytes, UUID | None]] = {
            row[0]: row[1:]
            for row in conn.execute(
                "SELECT record_id, name, sha256, parent_id FROM records JOIN descriptions ON subject_id = record_id"
            )
        }
    assert len(known) > len(CHOSEN)
    bag = bag_of(archive, list(known), tmp_path / "out" / "bag", clock, organization="Clinic of Haifa")
    assert (bag.findings, verify_bag(bag.path)) == ((), ())
    bagit.Bag(str(bag.path)).validate()
    rows = {UUID(row["Record ID"]): row for row in listed(bag)}
    assert rows.keys() == known.keys() == set(bag.records)
    for record_id, (name, digest, _) in known.items():
        content = (bag.path / rows[record_id]["File Path"]).read_bytes()
        assert sha256(content).digest() == digest
        assert rows[record_id]["Original Name"] == name
    by_name = {row["File Name"]: row for row in rows.values()}
    invoice = by_name[unicodedata.normalize("NFC", "חשבונית-מס-2045.pdf")]
    assert (invoice["Record Schedule Item"], invoice["Format"]) == ("IL-FIN-010", "application/pdf")
    assert "§25(c)" in invoice["Retention Authority"]
    mail = UUID(by_name["signed-agreement.eml"]["Record ID"])
    children = [record_id for record_id, (_, _, parent) in known.items() if parent == mail]
    assert children and all(rows[child]["Relation"] == f"is part of {mail}" for child in children)
    assert read_bag(bag.path) == Bag(**{f: getattr(bag, f) for f in bag.__slots__} | {"again": True})


def test_premis_is_valid_and_says_what_the_ledger_says(archive: Archive, tmp_path: Path, clock: Clock) -> None:
    records = keep(archive, tmp_path / "in", clock, ["a.txt", "b.txt", "not asked.txt"])[:2]
    bag = bag_of(archive, records, tmp_path / "bag", clock)
    path = bag.path / "metadata/premis.xml"
    assert list(premis.problems(path)) == []
    root = etree.parse(path, etree.XMLParser(resolve_entities=False, no_network=True)).getroot()
    objects = root.findall("p:object", P)
    assert [o.findtext("p:objectIdentifier/p:objectIdentifierValue", None, P) for o in objects] == [
        str(record_id) for record_id in records
    ]
    for one, row in zip(objects, listed(bag), strict=True):
        fixity = {
            f.findtext("p:messageDigestAlgorithm", None, P): f.findtext("p:messageDigest", None, P)
            for f in one.iterfind("p:objectCharacteristics/p:fixity", P)
        }
        assert fixity == {"SHA-256": row["SHA-256"], "SHA-512": row["SHA-512"]}
        assert one.findtext(".//p:formatRegistryKey", None, P) == "x-fmt/111"
        assert one.findtext(".//p:contentLocationValue", None, P) == row["File Path"]
    events = root.findall("p:event", P)
    assert [kind.get("valueURI", "").rpartition("/")[2] for e in events for kind in e.iterfind("p:eventType", P)] == [
        "ing",
        "ing",
    ]
    assert [e.findtext("p:linkingObjectIdentifier/p:linkingObjectIdentifierValue", None, P) for e in events] == [
        str(record_id) for record_id in records
    ]
    assert {a.findtext("p:agentName", None, P) for a in root.findall("p:agent", P)} == {"Ruth Levi", "muniment 0.1.0"}
    citations = {s.text for s in root.iterfind(".//p:statuteCitation", P)}
    assert citations == {"Income Tax Regulations (Bookkeeping) 1973, §25(c)"}
    links = {v.text for v in root.iterfind("p:object//p:linkingRightsStatementIdentifierValue", P)}
    assert links == {v.text for v in root.iterfind(".//p:rightsStatementIdentifierValue", P)} != set()


def test_the_audit_trail_is_the_ledger_to_the_byte(archive: Archive, tmp_path: Path, clock: Clock) -> None:
    records = keep(archive, tmp_path / "in", clock, ["a.txt", "b.txt", "c.txt"])
    with transaction(archive.connections) as conn:  # more than one event, one of them of two records
        event = ledger.Event("poa", clock(), archive.agent, tuple(records[:2]), detail={"relabel": "X"})
        ledger.append(conn, [event], clock())
    bag = bag_of(archive, records[:1], tmp_path / "bag", clock)
    lines = [json.loads(line) for line in (bag.path / "metadata/audit-trail.jsonl").read_text("utf-8").splitlines()]
    with transaction(archive.connections) as conn:
        stored = conn.execute(
            "SELECT position, leaf_hash, entry FROM events JOIN event_subjects USING (position) "
            "WHERE subject_id = %s ORDER BY position",
            (records[0],),
        ).fetchall()
        size, root = ledger.head(conn)
    assert [(line["position"], bytes.fromhex(line["leaf_hash"]), line["entry"].encode()) for line in lines] == stored
    assert len(lines) == 2
    assert all(merkle.leaf_hash(line["entry"].encode()).hex() == line["leaf_hash"] for line in lines)
    info = bagit.Bag(str(bag.path)).info
    assert (info["Ledger-Size"], info["Ledger-Root"]) == (str(size), root.hex())


def test_the_history_of_the_case_file_and_of_quarantine_goes_along(
    archive: Archive, tmp_path: Path, clock: Clock
) -> None:
    record, other = keep(archive, tmp_path / "in", clock, ["a.txt", "b.txt"])
    case, former = uuid4(), uuid4()
    with transaction(archive.connections) as conn:
        conn.execute(
            "INSERT INTO aggregations (aggregation_id, recorded_at, kind) VALUES (%s, now(), 'patient')", (case,)
        )
        conn.execute("UPDATE records SET aggregation_id = %s WHERE record_id = %s", (case, record))
        conn.execute(
            "INSERT INTO quarantine SELECT %s, run_id, 'released', 1, sealed_sha256, 1, '', commitment, now(), now(), "
            "now(), NULL, NULL, record_id FROM contents WHERE record_id = %s",
            (former, record),
        )
        told = ((case,), (former,), (other,), (case, other))
        events = [ledger.Event("poa", clock(), archive.agent, s, detail={"n": n}) for n, s in enumerate(told)]
        ledger.append(conn, events, clock())
    bag = bag_of(archive, [record], tmp_path / "bag", clock)
    lines = (bag.path / "metadata/audit-trail.jsonl").read_text("utf-8").splitlines()
    entries = [json.loads(json.loads(line)["entry"]) for line in lines]
    assert [e["detail"].get("n") for e in entries] == [None, 0, 1, 3]
    root = etree.parse(bag.path / "metadata/premis.xml").getroot()
    assert verify_bag(bag.path) == ()
    assert [o.findtext(".//p:objectIdentifierValue", None, P) for o in root.findall("p:object", P)] == [
        *(str(record), str(case)),
    ]
    assert root.findtext("p:object/p:relationship//p:relatedObjectIdentifierValue", None, P) == str(case)
    linked = [[v.text for v in e.iterfind(".//p:linkingObjectIdentifierValue", P)] for e in root.findall("p:event", P)]
    assert linked == [[str(record)], [str(case)], [], [str(case)]]


def test_the_basis_is_the_rule_that_decided_or_all_of_its_classes(
    archive: Archive, tmp_path: Path, clock: Clock
) -> None:
    (record,) = keep(archive, tmp_path / "in", clock, ["a.txt"])
    with owning(archive) as conn:
        conn.execute("INSERT INTO classes (class_id) VALUES ('US-HR-050')")
        conn.execute(
            "INSERT INTO record_labels SELECT %s, class_key, now() FROM classes WHERE class_id = 'US-HR-050'", (record,)
        )
        known = policy.current(conn).schedule
    label = known.record_class("US-HR-050")
    assert label is not None
    one = label.rules[0]
    bag = bag_of(archive, [record], tmp_path / "all", clock)
    assert "§25(c)" in listed(bag)[0]["Retention Authority"]
    assert one.authority.citation in listed(bag)[0]["Retention Authority"]
    bag = bag_of(archive, [record], tmp_path / "one", clock, decided_by={record: one.id})
    assert listed(bag)[0]["Retention Authority"] == f"{one.authority.citation} ({one.authority.jurisdiction})"
    assert verify_bag(bag.path) == ()


def test_a_production_is_native_and_readable(archive: Archive, tmp_path: Path, clock: Clock) -> None:
    (record,) = keep(archive, tmp_path / "in", clock, ["letter \udcff.txt"])
    bag = bag_of(archive, [record], tmp_path / "bag", clock, purpose=Purpose.PRODUCTION, identifier="hold-1")
    assert verify_bag(bag.path) == ()
    bagit.Bag(str(bag.path)).validate()
    folder = bag.path / "data/records" / str(record)
    assert {p.name for p in folder.iterdir()} == {"letter _.txt", "letter _.txt.txt", "letter _.txt.json"}
    assert (folder / "letter _.txt.txt").read_text() == "the words of it"
    known = json.loads((folder / "letter _.txt.json").read_text("utf-8"))
    assert (known["name"], known["class"], known["record_id"]) == ("letter \\xff.txt", "IL-FIN-010", str(record))
    assert [row["Role"] for row in listed(bag)] == ["native", "text", "metadata"]
    assert all(row["Title"] == "A title | with a pipe and a line" for row in listed(bag))


NAMES = (
    *("../../../etc/passwd", "..", ".hidden", "CON.txt", "nul", "a/b\\c:d.txt", "tab\tline\nbreak.txt", "100%.txt"),
    *("\u202efdp.exe", "x" * 300 + ".pdf", "ש" * 200 + ".docx", "-rf", "=cmd|'/c calc'!A0.csv", "", " . ", "\udcff"),
    *(unicodedata.normalize("NFC", "é.txt"), unicodedata.normalize("NFD", "é.txt"), "metadata.json", "a.txt"),
)


def test_no_name_leaves_its_folder(archive: Archive, tmp_path: Path, clock: Clock) -> None:
    records = keep(archive, tmp_path / "in", clock, NAMES)
    bag = bag_of(archive, records, tmp_path / "out/bag", clock, purpose=Purpose.PRODUCTION)
    assert (bag.findings, verify_bag(bag.path)) == ((), ())
    bagit.Bag(str(bag.path)).validate()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["bag"]
    natives = [row for row in listed(bag) if row["Role"] == "native"]
    assert len(natives) == len(NAMES)
    for row, name in zip(natives, NAMES, strict=True):
        content = (bag.path / row["File Path"]).read_bytes()
        assert content == b"kept\n" + name.encode("utf-8", "surrogateescape")
        assert len(row["File Path"]) < 200


# ---------------------------------------------------------------- what goes wrong


def spoil(archive: Archive, record: UUID, how: str) -> None:
    """Damage what catalog or vault have of one record, behind their back."""
    with owning(archive) as conn:
        row = conn.execute("SELECT sealed_sha256, version FROM contents WHERE record_id = %s", (record,)).fetchone()
        assert row is not None
        if how == "other commitment":
            conn.execute("UPDATE contents SET commitment = sha256('x') WHERE record_id = %s", (record,))
        elif how == "no key":
            conn.execute("DELETE FROM subject_keys WHERE subject_id = %s", (record,))
        elif how == "damaged key":
            conn.execute(
                "UPDATE subject_keys SET wrapped = substr(wrapped, 1, 39) || 'x' WHERE subject_id = %s", (record,)
            )
        elif how == "no descriptor":
            conn.execute("UPDATE descriptor_lines SET sha256 = sha256('x') WHERE subject_id = %s", (record,))
        elif how == "destroyed":
            conn.execute("UPDATE records SET state = 3 WHERE record_id = %s", (record,))
    if how == "gone":
        archive.vault.erase(f"records/{record}/{row[0].hex()}")


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("other commitment", "RECORD-DAMAGED"),
        ("no descriptor", "RECORD-DAMAGED"),
        ("gone", "RECORD-MISSING"),
        ("no key", "RECORD-MISSING"),
        ("damaged key", "RECORD-DAMAGED"),
        ("destroyed", "RECORD-NOT-KEPT"),
        ("unknown", "RECORD-UNKNOWN"),
    ],
)
def test_a_record_that_fails_is_named_and_stops_no_other(
    archive: Archive, tmp_path: Path, clock: Clock, how: str, code: str
) -> None:
    good, bad, last = keep(archive, tmp_path / "in", clock, ["a.txt", "b.txt", "c.txt"])
    if how == "unknown":
        bad = uuid4()
    else:
        spoil(archive, bad, how)
    bag = bag_of(archive, [good, bad, last], tmp_path / "bag", clock)
    assert [(f.code, f.record_id) for f in bag.findings] == [(code, bad)]
    assert bag.records == (good, last)
    assert verify_bag(bag.path) == ()
    assert not (bag.path / "data/records" / str(bad)).exists()
    (line,) = (bag.path / "metadata/not-included.jsonl").read_text().splitlines()
    assert json.loads(line)["record_id"] == str(bad)
    assert bagit.Bag(str(bag.path)).info["Records-Not-Included"] == "1"
    assert read_bag(bag.path).findings == bag.findings


class _Store:
    """The vault of the archive, but for what it is told to do when an object of a record is opened."""

    def __init__(self, vault: Vault, on_open: Callable[[str, Any], Any]) -> None:
        self._vault, self._on_open = vault, on_open

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vault, name)

    def open(self, key: str, version: str = "") -> Any:
        stream = self._vault.open(key, version)
        return self._on_open(key, stream) if key.startswith("records/") else stream


def through(archive: Archive, on_open: Callable[[str, Any], Any]) -> Archive:
    store: Any = _Store(archive.vault, on_open)
    return Archive(archive.settings, archive.connections, store, archive.safe, archive.agent)


class _Broken:
    """A stream that changes a byte of each block, or fails."""

    def __init__(self, stream: Any, failure: Exception | None) -> None:
        self._stream, self._failure = stream, failure

    def read(self, size: int = -1) -> bytes:
        if self._failure:
            raise self._failure
        block = bytes(self._stream.read(size))
        return block[:-1] + bytes([block[-1] ^ 1]) if block else block

    def __enter__(self) -> _Broken:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def test_changed_bytes_are_damage_and_a_store_that_is_away_is_not(
    archive: Archive, tmp_path: Path, clock: Clock
) -> None:
    good, bad = keep(archive, tmp_path / "in", clock, ["a.txt", "b.txt"], content=b"x" * 200_000)

    def changed(key: str, stream: Any) -> Any:
        return _Broken(stream, None) if str(bad) in key else stream

    def away(key: str, stream: Any) -> Any:
        return _Broken(stream, ServiceUnavailable("the store went away")) if str(bad) in key else stream

    def sealed_again(key: str, stream: Any) -> Any:
        """The same document, in other sealed bytes than the ledger tells of."""
        if str(bad) not in key:
            return stream
        with stream, transaction(archive.connections) as conn:
            own = load_key(conn, archive.safe, bad)
            return io.BytesIO(own.seal(own.open(stream.read())))

    for vault in (changed, sealed_again):
        bag = bag_of(through(archive, vault), [good, bad], tmp_path / "bag", clock)
        assert [(f.code, f.record_id) for f in bag.findings] == [("RECORD-DAMAGED", bad)]
    with pytest.raises(Refused, match="refusing to write .*: none of 1 records"):
        bag_of(through(archive, changed), [bad], tmp_path / "none", clock)
    before = tree(tmp_path / "bag")
    with pytest.raises(ServiceUnavailable, match="the store went away"):
        bag_of(through(archive, away), [good, bad], tmp_path / "bag", clock)
    assert tree(tmp_path / "bag") == before
    assert sorted(p.name for p in tmp_path.iterdir() if "bag" in p.name or "none" in p.name) == ["bag"]
    healed = bag_of(archive, [good, bad], tmp_path / "bag", clock)
    assert (healed.records, healed.findings, healed.again) == ((good, bad), (), False)


def test_the_same_again_is_the_same_bag(archive: Archive, tmp_path: Path, clock: Clock) -> None:
    records = keep(archive, tmp_path / "in", clock, ["a.txt", "b.txt"])
    bag = bag_of(archive, records, tmp_path / "bag", clock)
    before = tree(bag.path)
    again = bag_of(archive, records, tmp_path / "bag", clock)
    assert (again.again, again.digest, tree(bag.path)) == (True, bag.digest, before)
    victim = next((bag.path / "data").rglob("a.txt"))
    victim.write_bytes(b"changed")
    mended = bag_of(archive, records, tmp_path / "bag", clock)
    assert (mended.again, verify_bag(bag.path), victim.read_bytes()) == (False, (), b"kept\na.txt")
    fewer = bag_of(archive, records[:1], tmp_path / "bag", clock)
    assert (fewer.records, fewer.again) == ((records[0],), False)
    with pytest.raises(Refused, match="expected the bag plan-2 or nothing there, found the bag plan-1"):
        bag_of(archive, records, tmp_path / "bag", clock, identifier="plan-2")
    (tmp_path / "other").mkdir()
    with pytest.raises(Refused, match="found something else"):
        bag_of(archive, records, tmp_path / "other", clock)
    with pytest.raises(UsageError, match="no records"):
        bag_of(archive, [], tmp_path / "empty", clock)


def test_a_killed_writer_leaves_nothing_that_looks_whole(archive: Archive, tmp_path: Path, clock: Clock) -> None:
    records = keep(archive, tmp_path / "in", clock, ["a.txt", "b.txt"])
    left = tmp_path / ".bag.partial"
    (left / "data/records/old").mkdir(parents=True)
    (left / "bagit.txt").write_text("of another time")
    (tmp_path / ".bag.former").mkdir()
    bag = bag_of(archive, records, tmp_path / "bag", clock)
    assert verify_bag(bag.path) == ()
    assert not left.exists() and not (tmp_path / ".bag.former").exists()
    assert "old" not in {p.name for p in bag.path.rglob("*")}


def test_of_two_writers_of_one_bag_one_is_refused(archive: Archive, tmp_path: Path, clock: Clock) -> None:
    records = keep(archive, tmp_path / "in", clock, ["a.txt"])

    def second(key: str, stream: Any) -> Any:
        with pytest.raises(Refused, match="another process is writing it"):
            bag_of(archive, records, tmp_path / "bag", clock)
        return stream

    bag = bag_of(through(archive, second), records, tmp_path / "bag", clock)
    assert verify_bag(bag.path) == ()


def test_who_hands_out_says_so_of_each_record(archive: Archive, tmp_path: Path, clock: Clock) -> None:
    records = keep(archive, tmp_path / "in", clock, ["a.txt"])
    bag = bag_of(archive, records, tmp_path / "bag", clock)
    many = Bag(bag.path, "plan-1", bag.digest, tuple(uuid4() for _ in range(2_500)), 1, 1)
    events = handed_out(many, Purpose.TRANSFER, archive.agent, clock())
    assert [len(e.subjects) for e in events] == [1_000, 1_000, 500]
    assert all(len(ledger.canonical(e)) < MAX_ENTRY for e in events)
    assert {e.type for e in handed_out(bag, Purpose.PRODUCTION, archive.agent, clock())} == {"exp"}


def test_the_receiver_answers_for_this_bag(archive: Archive, tmp_path: Path, clock: Clock) -> None:
    records = keep(archive, tmp_path / "in", clock, ["a.txt", "b.txt", "c.txt"])
    bag = bag_of(archive, records, tmp_path / "bag", clock)
    answer = tmp_path / "answer.json"
    given = {
        "bag": "plan-1",
        "digest": bag.digest.hex(),
        "received_at": datetime(2026, 12, 1, 9, tzinfo=UTC).isoformat(),
        "receiver": "National Archives",
        "accepted": [str(records[0])],
        "rejected": [{"id": str(records[1]), "reason": "format not accepted"}],
    }
    answer.write_text(json.dumps(given))
    taken = read_acknowledgement(answer, bag)
    assert (taken.accepted, dict(taken.rejected)) == ((records[0],), {records[1]: "format not accepted"})
    assert taken.unanswered == (records[2],)

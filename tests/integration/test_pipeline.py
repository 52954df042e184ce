"""From a folder to vault, catalog, ledger and account: what came in is there, once, sealed, and adds up."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from ingest import pipeline, run_folder, sources
from ingest.extraction.workers import Workers
from retention import catalog, descriptors, ledger, merkle, quarantine, runs
from retention.archive import Archive, load_key, open_archive
from retention.config import Settings
from retention.database import transaction
from retention.errors import Damaged, MunimentError, NotFound, Refused, UsageError
from tests.owning import owning

Clock = Callable[[], datetime]

STAFF: list[Workers] = []  # one staff for the module: starting processes is most of a small run's time

MAIL = b"""\
From: Dana Cohen <dana@example.org>
To: Records <records@example.org>
Subject: Minutes of the board
Date: Mon, 02 Nov 2026 10:00:00 +0200
Message-ID: <1@example.org>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="b"

--b
Content-Type: text/plain; charset=utf-8

The minutes are attached.
--b
Content-Type: text/plain; charset=utf-8; name="minutes.txt"
Content-Disposition: attachment; filename="minutes.txt"

The board met and decided nothing of consequence.
--b--
"""


@pytest.fixture(scope="module", autouse=True)
def staff() -> Iterator[None]:
    with Workers() as workers:
        STAFF.append(workers)
        yield
        STAFF.clear()


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    (folder / "letter.txt").write_text("A letter about the harvest of almonds.\n")
    (folder / "hebrew.txt").write_text("פרוטוקול ישיבת דירקטוריון על שקדים\n")
    (folder / "mail.eml").write_bytes(MAIL)
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog")
    (folder / "empty.txt").touch()
    return folder


def run(archive: Archive, folder: Path, clock: Clock) -> pipeline.Ingested:
    return pipeline.ingest(archive, sources.source_at(str(folder), folder), clock, workers=STAFF[0] if STAFF else None)


def everything(archive: Archive) -> dict[str, list[tuple[Any, ...]]]:
    """All that a second run could have changed, but for when things were last seen and that there was a run."""
    with transaction(archive.connections) as conn:
        return {
            table: conn.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            for table in ("records", "contents", "quarantine", "descriptor_lines", "findings", "subject_keys")
        }


def test_all_is_accounted_for_and_stored_sealed(archive: Archive, inbox: Path, clock: Clock) -> None:
    done = run(archive, inbox, clock)
    assert (done.totals.discovered, done.totals.admitted, done.totals.children) == (5, 3, 1)
    assert (done.totals.quarantined, done.totals.rejected, done.totals.known) == (1, 1, 0)
    with transaction(archive.connections) as conn:
        rows = conn.execute(
            "SELECT record_id, sealed_sha256, version, commitment, d.sha256, d.name FROM contents "
            "JOIN descriptions d ON d.subject_id = record_id"
        ).fetchall()
        assert len(rows) == 4
        for record_id, digest, version, commitment, plain_digest, name in rows:
            sealed = archive.vault.open(f"records/{record_id}/{digest.hex()}", version).read()
            key = load_key(conn, archive.safe, record_id)
            content = key.open(sealed)
            assert sha256(content).digest() == plain_digest
            assert key.commitment(plain_digest) == commitment
            if name != "minutes.txt":
                assert content == (inbox / name).read_bytes()
                assert content not in sealed
    assert not any(archive.settings.spool.iterdir())


def test_the_ledger_is_the_tree_over_its_entries(archive: Archive, inbox: Path, clock: Clock) -> None:
    run(archive, inbox, clock)
    with transaction(archive.connections) as conn:
        rows = conn.execute("SELECT position, leaf_hash, entry, type FROM events ORDER BY position").fetchall()
        assert [row[0] for row in rows] == [*range(len(rows))]
        assert all(merkle.leaf_hash(row[2]) == row[1] for row in rows)
        size, frontier = merkle.append(0, [], (row[1] for row in rows))
        assert ledger.head(conn) == (size, merkle.root(frontier))
    # schedule, run begins, 4 records, 1 quarantined, 1 rejected, run ends
    assert sorted(row[3] for row in rows) == ["ine", "ing", "ing", "ing", "ing", "ing", "ins", "poa", "qua"]


def test_history_names_nobody(archive: Archive, inbox: Path, clock: Clock) -> None:
    run(archive, inbox, clock)
    with transaction(archive.connections) as conn:
        told = b"".join(row[0] for row in conn.execute("SELECT entry FROM events"))
        digests = [row[0] for row in conn.execute("SELECT sha256 FROM descriptions WHERE sha256 IS NOT NULL")]
    for word in ("Ruth", "Levi", "letter", "Dana", "minutes.txt", "almonds", str(inbox), "broken"):
        assert word.encode() not in told
    for digest in digests:
        assert digest.hex().encode() not in told


@pytest.mark.parametrize("statement", ["UPDATE {} SET position = 0", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
@pytest.mark.parametrize("table", ["events", "event_subjects"])
def test_history_cannot_be_changed(archive: Archive, table: str, statement: str) -> None:
    refused = pytest.raises(psycopg.errors.RestrictViolation, match="history is append-only")
    with owning(archive) as conn, refused:
        conn.execute(statement.format(table).encode())


def test_a_second_run_changes_nothing(archive: Archive, inbox: Path, clock: Clock) -> None:
    run(archive, inbox, clock)
    before = everything(archive)
    objects = [o.key for o in archive.vault.list()]
    again = run(archive, inbox, clock)
    assert (again.totals.known, again.totals.rejected, again.totals.admitted) == (5, 0, 0)
    assert everything(archive) == before
    assert [o.key for o in archive.vault.list()] == objects


def test_a_changed_document_is_a_new_version(archive: Archive, inbox: Path, clock: Clock) -> None:
    run(archive, inbox, clock)
    (inbox / "letter.txt").write_text("A letter about the harvest of olives.\n")
    again = run(archive, inbox, clock)
    assert (again.totals.admitted, again.totals.known) == (1, 4)
    with transaction(archive.connections) as conn:
        (new,) = catalog.find(conn, "olives")
        (old,) = catalog.find(conn, "letter almonds")
        shown = conn.execute("SELECT supersedes FROM contents WHERE record_id = %s", (new.record_id,)).fetchone()
    assert shown == (old.record_id,)
    assert run(archive, inbox, clock).totals.known == 5


def test_an_attachment_belongs_to_its_message(archive: Archive, inbox: Path, clock: Clock) -> None:
    run(archive, inbox, clock)
    with transaction(archive.connections) as conn:
        (child,) = list(catalog.find(conn, "consequence"))
        (parent,) = [hit for hit in catalog.find(conn, "minutes board") if hit.name == "mail.eml"]
        assert child.name == "minutes.txt"
        assert catalog.show(conn, archive, child.record_id)["parent_id"] == str(parent.record_id)
        assert catalog.show(conn, archive, parent.record_id)["children"] == [str(child.record_id)]
    assert child.class_id == parent.class_id


def test_search_finds_hebrew_without_its_points(archive: Archive, inbox: Path, clock: Clock) -> None:
    (inbox / "pointed.txt").write_text("שְׁקֵדִים\n")
    run(archive, inbox, clock)
    with transaction(archive.connections) as conn:
        assert {hit.name for hit in catalog.find(conn, "שקדים")} == {"hebrew.txt", "pointed.txt"}
        assert {hit.name for hit in catalog.find(conn, "שְׁקֵדִים")} == {"hebrew.txt", "pointed.txt"}


def test_the_account_is_signed_and_lists_each_document(archive: Archive, inbox: Path, clock: Clock) -> None:
    done = run(archive, inbox, clock)
    signed = done.reconciliation.with_name("reconciliation.signed.json")
    account = runs.verify_account(signed, archive)
    assert account == json.loads(done.reconciliation.read_text())
    assert account["missing"] == 0
    assert sorted(item["outcome"] for item in account["items"]) == [
        *("admitted",) * 3,
        "quarantined",
        "rejected",
    ]
    assert "letter" not in done.reconciliation.read_text()
    tampered = json.loads(signed.read_text())
    tampered["account"] = tampered["account"][:-8] + "AAAAAAA="
    signed.write_text(json.dumps(tampered))
    with pytest.raises(Damaged, match="signature"):
        runs.verify_account(signed, archive)


def test_a_released_document_becomes_a_record_once(archive: Archive, inbox: Path, clock: Clock) -> None:
    run(archive, inbox, clock)
    with transaction(archive.connections) as conn:
        (held,) = quarantine.listed(conn)
    assert held.name == "broken.pdf"
    record_id = pipeline.release(archive, held.quarantine_id, clock)
    with transaction(archive.connections) as conn:
        shown = catalog.show(conn, archive, record_id)
    assert (shown["name"], shown["state"]) == ("broken.pdf", "kept")
    assert [f["code"] for f in shown["findings"]] == ["TRUNCATED"]
    with pytest.raises(Refused, match="refusing to release .* it was released before"):
        pipeline.release(archive, held.quarantine_id, clock)
    assert run(archive, inbox, clock).totals.known == 5


def test_a_rejected_document_stays_rejected(archive: Archive, inbox: Path, clock: Clock) -> None:
    run(archive, inbox, clock)
    with transaction(archive.connections) as conn:
        (held,) = quarantine.listed(conn)
    with pytest.raises(UsageError, match="expected a code"):
        quarantine.reject(archive, held.quarantine_id, "Because Dana said so", clock())
    quarantine.reject(archive, held.quarantine_id, "not-a-record", clock())
    with pytest.raises(Refused, match="it was rejected before"):
        quarantine.reject(archive, held.quarantine_id, "not-a-record", clock())
    with transaction(archive.connections) as conn:
        assert quarantine.listed(conn) == []
    assert run(archive, inbox, clock).totals.known == 5


def test_quarantined_bytes_come_back_as_they_were(archive: Archive, inbox: Path, clock: Clock, tmp_path: Path) -> None:
    run(archive, inbox, clock)
    with transaction(archive.connections) as conn:
        (held,) = quarantine.listed(conn)
    quarantine.open_bytes(archive, held.quarantine_id, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (inbox / "broken.pdf").read_bytes()


def test_names_that_are_not_text_survive(archive: Archive, tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    names = [
        b"line\nbreak.txt",
        b"\xff\xfe.txt",
        b"n" * 251 + b".txt",
        "שלום.txt".encode(),
        b"'; DROP TABLE records.txt",
    ]
    for number, name in enumerate(names):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text(f"words of number{number} here\n")
    done = run(archive, folder, clock)
    assert (done.totals.discovered, done.totals.admitted) == (len(names), len(names))
    with transaction(archive.connections) as conn:
        for number, name in enumerate(names):
            (hit,) = catalog.find(conn, f"number{number}")
            row = conn.execute(
                "SELECT l.byte_offset, l.byte_length, l.descriptor_id FROM descriptor_lines l WHERE subject_id = %s",
                (hit.record_id,),
            ).fetchone()
            assert row is not None
            content = archive.vault.open(f"descriptors/{row[2]}").read()[row[0] : row[0] + row[1]]
            _, told = descriptors.decode(load_key(conn, archive.safe, hit.record_id).open(content))
            assert os.fsencode(told.place) == name
    assert run(archive, folder, clock).totals.known == len(names)


def test_a_folder_that_does_not_exist_begins_no_run(archive: Archive, tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        run(archive, tmp_path / "nowhere", clock)
    with transaction(archive.connections) as conn:
        assert conn.execute("SELECT count(*) FROM runs").fetchone() == (0,)


def test_two_runs_at_once_capture_each_document_once(settings: Settings, tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.txt").write_text(f"document number {number}\n")
    small = replace(settings, batch_documents=7)
    with open_archive(small, clock()) as one, open_archive(small, clock()) as two, ThreadPoolExecutor(2) as at_once:
        source = sources.source_at(str(folder), folder)
        results = [*at_once.map(lambda archive: pipeline.ingest(archive, source, clock), (one, two))]
        totals = [r.totals for r in results]
        assert [t.missing for t in totals] == [0, 0]
        assert sum(t.admitted for t in totals) == 60
        assert sum(t.known for t in totals) == 60
        with transaction(one.connections) as conn:
            assert conn.execute("SELECT count(*) FROM records").fetchone() == (60,)
            assert conn.execute("SELECT count(*), max(position) FROM events").fetchone() == (65, 64)


def test_batches_of_a_scheduler_may_run_twice_and_in_any_order(settings: Settings, inbox: Path, clock: Clock) -> None:
    with open_archive(replace(settings, batch_documents=1), clock()) as archive:
        begun = pipeline.begin(archive, sources.source_at(str(inbox), inbox), clock, scheduled=True)
        assert begun.batches == 5
        loaded = run_folder.load(archive.settings, begun.run_id)
        assert loaded == begun
        with Workers(count=1) as workers:
            for number in (3, 0, 3, 4, 0):
                pipeline.work(archive, loaded, [number], clock, workers=workers)
            half = pipeline.clear_dead(archive, clock)
            assert half == []  # the scheduler will go on
            pipeline.work(archive, loaded, range(5), clock, workers=workers)
        done = pipeline.finish(archive, loaded, clock)
        assert done.totals.discovered == 5
        assert done.totals.missing == 0
        with pytest.raises(NotFound, match="It ended"):
            run_folder.load(archive.settings, begun.run_id)


def test_a_run_that_lost_a_batch_is_red_not_complete(settings: Settings, inbox: Path, clock: Clock) -> None:
    with open_archive(replace(settings, batch_documents=2), clock()) as archive:
        begun = pipeline.begin(archive, sources.source_at(str(inbox), inbox), clock)
        pipeline.work(archive, begun, [0], clock)
        done = pipeline.finish(archive, begun, clock)
        assert done.totals.missing == 3
        with transaction(archive.connections) as conn:
            assert conn.execute("SELECT state FROM runs").fetchone() == ("interrupted",)
        assert run(archive, inbox, clock).totals.missing == 0


def test_descriptions_are_rebuilt_from_the_vault(archive: Archive, inbox: Path, clock: Clock) -> None:
    run(archive, inbox, clock)
    query = "SELECT * FROM descriptions ORDER BY subject_id"
    with owning(archive) as conn:
        before = conn.execute(query).fetchall()
        conn.execute("TRUNCATE descriptions, descriptions_complete")  # what PostgreSQL does after a crash
    with transaction(archive.connections) as conn:
        assert descriptors.missing(conn) == len(before) == 6
    with ThreadPoolExecutor(3) as at_once:  # several tasks find it out at the same moment
        rebuilt = [*at_once.map(lambda _: descriptors.rebuild(archive), range(3))]
    assert [r.failures for r in rebuilt] == [(), (), ()]
    assert descriptors.rebuild(archive).subjects == 0
    with transaction(archive.connections) as conn:
        assert conn.execute(query).fetchall() == before


def test_a_descriptor_that_is_gone_or_changed_is_named_and_stops_nothing_else(
    archive: Archive, inbox: Path, clock: Clock
) -> None:
    run(archive, inbox, clock)
    (inbox / "later.txt").write_text("A later letter.\n")
    run(archive, inbox, clock)
    (inbox / "last.txt").write_text("The last letter.\n")
    run(archive, inbox, clock)
    with owning(archive) as conn:
        conn.execute("TRUNCATE descriptions, descriptions_complete")
        first, second, _ = (r[0] for r in conn.execute("SELECT descriptor_id FROM descriptors ORDER BY recorded_at"))
        conn.execute("UPDATE descriptors SET sha256 = sha256('other') WHERE descriptor_id = %s", (first,))
    archive.vault.erase(f"descriptors/{second}")
    rebuilt = descriptors.rebuild(archive)
    assert rebuilt.subjects == 1
    assert len(rebuilt.failures) == 2
    for damaged in (first, second):
        assert any(str(damaged) in failure for failure in rebuilt.failures)
    with transaction(archive.connections) as conn:
        assert descriptors.missing(conn) == 7


def test_a_text_that_overflows_a_search_index_is_admitted_beside_the_others(
    archive: Archive, inbox: Path, clock: Clock
) -> None:
    letters = [chr(0x10D0 + n) for n in range(33)]
    words = ("".join(letters[(n // 33**k) % 33] for k in range(5)) for n in range(60_000))
    (inbox / "words.txt").write_text("\n".join(f"{word}-{word}/{word}" for word in words))
    (inbox / "title.html").write_text(f"<title>{'endless ' * 200_000}</title><p>body of it</p>")
    done = run(archive, inbox, clock)
    assert done.totals.admitted == 5
    with transaction(archive.connections) as conn:
        assert [hit.name for hit in catalog.find(conn, "body endless")] == ["title.html"]
        assert [hit.name for hit in catalog.find(conn, "".join([letters[0]] * 5))] == ["words.txt"]


def test_words_beyond_the_phrased_part_are_found(archive: Archive, inbox: Path, clock: Clock) -> None:
    (inbox / "long.txt").write_text("common words " * 10_000 + "and one hapaxlegomenon at the end\n")
    run(archive, inbox, clock)
    with transaction(archive.connections) as conn:
        assert [hit.name for hit in catalog.find(conn, "hapaxlegomenon")] == ["long.txt"]


def test_a_catalog_opens_with_its_own_key_safe_only(archive: Archive, tmp_path: Path, clock: Clock) -> None:
    other = replace(archive.settings, root=tmp_path / "other")
    with pytest.raises(UsageError, match="missing"), open_archive(other, clock()):
        pass
    from retention.seal import open_safe

    open_safe(other.keys, clock())
    with pytest.raises(UsageError, match="belongs to another safe"), open_archive(other, clock()):
        pass


def test_a_vault_that_was_mistyped_at_first_use_may_be_corrected(
    settings: Settings, tmp_path: Path, clock: Clock
) -> None:
    (tmp_path / "file").touch()
    wrong = replace(settings, vault_url=f"file://{tmp_path}/file/vault")
    with pytest.raises(MunimentError), open_archive(wrong, clock()):
        pass
    with open_archive(replace(settings, vault_url=f"file://{tmp_path}/vault"), clock()) as archive:
        archive.vault.check()


def test_what_was_released_is_as_it_came(archive: Archive, inbox: Path, clock: Clock) -> None:
    odd = Path(os.fsdecode(os.fsencode(inbox) + b"/dam\xff.pdf"))
    odd.write_bytes(b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog")
    os.utime(odd, (1_000_000_000, 1_000_000_000))
    run(archive, inbox, clock)
    with transaction(archive.connections) as conn:
        (held,) = [q for q in quarantine.listed(conn) if q.name != "broken.pdf"]
    record_id = pipeline.release(archive, held.quarantine_id, clock)
    with transaction(archive.connections) as conn:
        row = conn.execute("SELECT received, modified FROM records WHERE record_id = %s", (record_id,)).fetchone()
        told = descriptors.read_line(archive, conn, record_id)
    assert row is not None
    assert row[1].isoformat() == "2001-09-09"
    assert os.fsencode(told.place) == b"dam\xff.pdf"


def test_a_release_that_is_refused_leaves_no_plain_text(archive: Archive, inbox: Path, clock: Clock) -> None:
    run(archive, inbox, clock)
    with transaction(archive.connections) as conn:
        (held,) = quarantine.listed(conn)
    both = [held.quarantine_id, held.quarantine_id]

    def try_it(quarantine_id: UUID) -> str:
        try:
            return str(pipeline.release(archive, quarantine_id, clock))
        except Refused:
            return "refused"

    with ThreadPoolExecutor(2) as at_once:
        assert sorted(at_once.map(try_it, both))[1] == "refused"
    assert not any(archive.settings.spool.iterdir())
    with transaction(archive.connections) as conn:
        assert runs.running(conn) == []


def test_a_batch_that_comes_after_the_end_of_its_run_is_refused(archive: Archive, inbox: Path, clock: Clock) -> None:
    begun = pipeline.begin(archive, sources.source_at(str(inbox), inbox), clock)
    assert runs.close(archive, begun.run_id, begun.discovered, 0, clock()).missing == 5
    with pytest.raises(Refused, match="refusing to add to run .* it is interrupted"):
        pipeline.work(archive, begun, [0], clock, workers=STAFF[0])
    with transaction(archive.connections) as conn:
        assert conn.execute("SELECT count(*) FROM records").fetchone() == (0,)
    assert run(archive, inbox, clock).totals.missing == 0


def test_a_run_that_ended_answers_again_as_it_did(archive: Archive, inbox: Path, clock: Clock) -> None:
    begun = pipeline.begin(archive, sources.source_at(str(inbox), inbox), clock, scheduled=True)
    pipeline.work(archive, begun, range(begun.batches), clock, workers=STAFF[0])
    first = pipeline.finish_again(archive, begun.run_id, clock)
    assert pipeline.finish_again(archive, begun.run_id, clock).totals == first.totals
    with pytest.raises(NotFound):
        pipeline.finish_again(archive, UUID(int=7), clock)


def test_ids_of_one_moment_differ_and_sort_by_time(clock: Clock) -> None:
    from retention.model import new_id

    one, two = clock(), clock()
    ids = [new_id(one) for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {i.version for i in ids} == {7}
    assert max(ids) < new_id(two)
    assert isinstance(ids[0], UUID)


def test_a_scheduler_that_begins_again_ends_what_it_left(archive: Archive, inbox: Path, clock: Clock) -> None:
    source = sources.source_at(str(inbox), inbox)
    left = pipeline.begin(archive, source, clock, scheduled=True)
    other = pipeline.begin(archive, source.model_copy(update={"name": "other"}), clock, scheduled=True)
    with run_folder.alive(other.folder):
        pipeline.begin(archive, source, clock, scheduled=True)
    assert not left.folder.exists()
    assert other.folder.exists()
    with transaction(archive.connections) as conn:
        states = dict(conn.execute("SELECT run_id, state FROM runs").fetchall())
    assert states[left.run_id] == "interrupted"
    assert states[other.run_id] == "running"

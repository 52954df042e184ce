"""Locks that policy requires: short at put, the whole term after the commit, and only what was read back counts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ingest import pipeline, sources
from retention import locks, policy, quarantine
from retention.archive import Archive, open_archive
from retention.config import Settings
from retention.database import transaction
from retention.errors import Refused

SCHEDULE = """\
version: 1
title: ledgers
timezone: UTC
rules:
  - id: six-years
    trigger: received
    period: P6Y
    action: review
    authority: {citation: 17 CFR 240.17a-4(a)}
classes:
  - id: BD-010
    title: Ledgers
    rules: [six-years]
    worm: governance
    match:
      - {id: ledgers, path: ["*.ledger"]}
"""


def utc() -> datetime:
    return datetime.now(UTC)


def take_in(archive: Archive, folder: Path) -> pipeline.Ingested:
    folder.mkdir(exist_ok=True)
    (folder / "2026.ledger").write_text("debit and credit\n")
    policy.load(archive, SCHEDULE, "test", utc())
    return pipeline.ingest(archive, sources.source_at(str(folder), folder), utc)


def test_the_term_is_set_and_read_back_after_the_commit(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:  # the process ends before the queue is worked on
        later.setattr(locks, "drain", lambda *_: None)
        assert take_in(archive, tmp_path / "in").totals.admitted == 1
    with transaction(archive.connections) as conn:
        key, version, wanted, actual = conn.execute(
            "SELECT object_key, version, wanted_until, actual_until FROM object_locks"
        ).fetchall()[0]
    assert actual is None
    short = archive.vault.stat(key, version).lock
    assert short is not None
    assert short.until < utc() + timedelta(days=8)
    drained = locks.drain(archive, utc())
    assert (drained.set, drained.failed, drained.waiting) == (1, 0, 0)
    stored = archive.vault.stat(key, version).lock
    assert stored is not None
    assert stored.until == wanted.replace(microsecond=0) or stored.until >= wanted
    assert wanted > utc() + timedelta(days=6 * 365)
    with pytest.raises(Refused):
        archive.vault.erase(key)
    assert locks.drain(archive, utc()).set == 0


def test_one_lock_that_cannot_be_set_stays_in_the_queue_and_stops_no_other(archive: Archive, tmp_path: Path) -> None:
    take_in(archive, tmp_path / "in")
    with transaction(archive.connections) as conn:
        conn.execute("UPDATE object_locks SET wanted_until = wanted_until + interval '1 day', read_back_at = NULL")
        conn.execute(
            "INSERT INTO object_locks (object_key, version, subject_id, mode, wanted_until, queued_at) "
            "SELECT 'records/none/none', '', subject_id, mode, wanted_until, queued_at FROM object_locks"
        )
    drained = locks.drain(archive, utc())
    assert (drained.set, drained.failed, drained.waiting) == (1, 1, 1)
    with transaction(archive.connections) as conn:
        assert conn.execute("SELECT error FROM object_locks WHERE actual_until IS NULL").fetchall() == [("NotFound",)]


def test_a_vault_that_cannot_lock_takes_no_document_that_must_be(settings: Settings, tmp_path: Path) -> None:
    with open_archive(replace(settings, vault_url=f"file://{tmp_path}/vault"), utc()) as archive:
        done = take_in(archive, tmp_path / "in")
        assert (done.totals.admitted, done.totals.quarantined) == (0, 1)
        with transaction(archive.connections) as conn:
            (held,) = quarantine.listed(conn)
        assert [f["code"] for f in held.findings] == ["WORM-UNAVAILABLE"]
        with pytest.raises(Refused, match="cannot lock"):
            pipeline.release(archive, held.quarantine_id, utc)
        assert not any(archive.settings.spool.iterdir())

"""The open corpus, 1,494 real and hostile documents that nobody here wrote: all accounted for, none lost.

It is not part of the repository; where it is not beside it, this is skipped, but never in continuous integration.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from ingest import pipeline, sources
from retention import runs
from retention.archive import Archive
from retention.database import transaction

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"


@pytest.mark.skipif(not CORPUS.is_dir() and "CI" not in os.environ, reason=f"no {CORPUS}; it is handed out apart")
def test_every_document_is_in_one_list(archive: Archive, clock: Callable[[], datetime]) -> None:
    files = [p for p in CORPUS.rglob("*") if p.is_file()]
    assert len(files) > 1_000
    done = pipeline.ingest(archive, sources.source_at(str(CORPUS), CORPUS), clock)
    totals = done.totals
    assert (totals.discovered, totals.missing) == (len(files), 0)
    assert totals.admitted > 0.9 * totals.discovered
    assert totals.quarantined > 0
    account = runs.verify_account(done.reconciliation.with_name("reconciliation.signed.json"), archive)
    assert len(account["items"]) == len(files)
    with transaction(archive.connections) as conn:
        rows = conn.execute("SELECT code, count(*) FROM findings GROUP BY 1").fetchall()
        records = conn.execute("SELECT count(*) FROM records").fetchone()
    found = dict(rows)
    assert records == (totals.admitted + totals.children,)
    # hostile ones, each caught by name: XML entities, archive bombs, encrypted, cut off
    for code in ("UNSAFE-XML", "PDF-ENCRYPTED", "TRUNCATED", "DAMAGED", "PDF-DAMAGED-REPAIRED", "MACROS"):
        assert found.get(code, 0) > 0, code
    assert "EXTRACTION-CRASHED" not in found
    assert "VALIDATION-FAILED" not in found
    # process_iter answers nothing for a zombie, which has ended and only waits to be collected
    children = {process.pid for process in psutil.Process().children(recursive=True)}
    started = ((p.pid, " ".join(p.info["cmdline"] or ())) for p in psutil.process_iter(["cmdline"]))
    left = [command for pid, command in started if pid in children and "spawn_main" in command]
    assert left == []

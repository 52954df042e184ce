"""`make bench`: the numbers that the documentation states, as ratios taken in one run, printed as a table.

    make bench                        all of it: several minutes on two cores
    make bench ARGS="help corpus"     a part: help corpus floor samples eligibility
    BENCH_INBOX=folder BENCH_COPIES=10 BENCH_ROUNDS=1

Rules of this module:
- What is compared runs on the same files, the same store and the same machine, one after the other; of several
  rounds the best counts, on both sides.
- The floor (tests/bench/floor.py) is the least that could be done with each file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
INBOX = Path(os.environ.get("BENCH_INBOX", ROOT.parent / "shared" / "corpus"))
COPIES = int(os.environ.get("BENCH_COPIES", "10"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "1"))
PROCESSES, THREADS = os.cpu_count() or 2, 8
GIB = 1024**3

Row = tuple[str, str, str, str]  # what, found, at most, verdict


def row(what: str, found: float, most: float, unit: str) -> Row:
    return what, f"{found:.2f} {unit}", f"{most:g} {unit}", "ok" if found <= most else "MISSED"


class Watch:
    """Wall time of a block, and the most resident memory that one process of its family had."""

    def __init__(self) -> None:
        self.peak = 0
        self.seconds = 0.0
        self._stop = threading.Event()

    def __enter__(self) -> Watch:
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._started
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.2):
            with contextlib.suppress(psutil.Error):
                for process in [me, *me.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        self.peak = max(self.peak, process.memory_info().rss)


# ---------------------------------------------------------------- parts


def bench_help() -> list[Row]:
    muniment = Path(sys.executable).with_name("muniment")
    times = []
    for _ in range(5):
        started = time.monotonic()
        subprocess.run([muniment, "--help"], capture_output=True, check=True)
        times.append(time.monotonic() - started)
    return [row("muniment --help, median of 5", sorted(times)[2], 0.5, "s")]


def bench_corpus() -> list[Row]:
    """`make run` on the corpus through Airflow: everything accounted for, no process large, none left."""
    before = {p.pid for p in psutil.process_iter()}
    with tempfile.TemporaryDirectory(prefix="muniment-bench-") as workspace, Watch() as watch:
        environment = os.environ | {"MUNIMENT_WORKSPACE": workspace}
        done = subprocess.run(
            ["make", "run", f"INBOX={INBOX}"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
    words = ("discovered", "= admitted", "+ quarantined", "+ rejected", "+ already known")
    pattern = " ".join(re.escape(word) + r" ([\d,]+)" for word in words)
    found = re.search(pattern, done.stdout + done.stderr)
    if found is None or done.returncode not in (0, 1):
        raise SystemExit(f"make run failed ({done.returncode}):\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    discovered, *parts = (int(n.replace(",", "")) for n in found.groups())
    time.sleep(2)
    running = psutil.process_iter(["cmdline"])  # answers nothing for what ends meanwhile
    left = [p for p in running if p.pid not in before and workspace in " ".join(p.info["cmdline"] or ())]
    return [
        row(f"make run on {discovered:,} files, wall", watch.seconds, 120, "s"),
        row("  files in no list", abs(discovered - sum(parts)), 0, "files"),
        row("  largest process", watch.peak / GIB, 1, "GiB"),
        row("  processes left", len(left), 0, ""),
    ]


def bench_samples() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="muniment-bench-") as workspace, Watch() as watch:
        environment = os.environ | {"MUNIMENT_WORKSPACE": workspace}
        subprocess.run(["make", "run"], cwd=ROOT, env=environment, capture_output=True, check=False)
    return [row("make run on the samples, wall", watch.seconds, 90, "s")]


def bench_floor() -> list[Row]:
    """`muniment ingest` beside the floor on copies of the corpus; the second run; memory on one copy and on all."""
    from retention import embedded
    from retention.embedded import seaweedfs
    from tests.bench.floor import floor

    with tempfile.TemporaryDirectory(prefix="muniment-bench-") as folder:
        root, copies = Path(folder) / "var", Path(folder) / "inbox"
        for number in range(COPIES):
            shutil.copytree(INBOX, copies / f"{number:02}")
        files = sorted(p for p in copies.rglob("*") if p.is_file())
        services = embedded.up(root, postgres=True, s3=True)
        try:
            assert services.s3 is not None
            client = seaweedfs.client(services.s3)
            one = _ingest(root, copies / "00")
            floors, runs = [], []
            for attempt in range(ROUNDS):
                floors.append(floor(files, client, services.s3.bucket, PROCESSES, THREADS))
                runs.append(_ingest(root, copies, fresh=attempt))
            again = _ingest(root, copies)["seconds"]
        finally:
            embedded.down(root)
    best, least = min(r["seconds"] for r in runs), min(floors)
    print("# where the time goes:", json.dumps(runs[0]["parts"]), file=sys.stderr)
    return [
        row(f"ingest of {len(files):,} files beside the floor ({best:.1f} s / {least:.1f} s)", best / least, 1.6, "x"),
        row("  the same folder again, beside the first run", again / runs[0]["seconds"], 0.2, "x"),
        row(
            f"  memory, {len(files):,} files beside {len(files) // COPIES:,}",
            runs[0]["peak"] / one["peak"],
            1.25,
            "x",
        ),
    ]


def _ingest(root: Path, folder: Path, fresh: int = 0) -> dict[str, float]:
    """One ingestion in a process of its own, children left out; `fresh` names another source, so that all is new."""
    command = [sys.executable, "-m", "tests.bench", "--ingest", str(root), str(folder), str(fresh)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _ingest_here(root: Path, folder: Path, fresh: str) -> None:
    """The process that is measured: what `muniment ingest` does, with a limit of no children."""
    from ingest import pipeline, sources, validation
    from ingest.extraction.workers import Workers
    from ingest.model import Limits
    from retention import capture, embedded
    from retention.archive import open_archive
    from retention.config import Settings

    services = embedded.load(root)
    assert services is not None
    settings = Settings(
        root,
        services.database_url,
        services.vault_url,
        services.access_key,
        services.secret_key,
        "bench",
        database_owner_url=services.owner_url,
    )
    source = sources.source_at(str(folder), folder)
    source = source.model_copy(update={"name": f"{source.name}#{fresh}"})
    parts: dict[str, float] = {}
    for module, name in ((pipeline, "_read_batch"), (pipeline, "_store_batch"), (capture, "_place")):
        _timed(module, name, parts)
    _timed(validation, "validate", parts)
    limits = replace(Limits(), children=0)
    with Watch() as watch, open_archive(settings, datetime.now(UTC)) as archive, Workers(limits) as workers:
        done = pipeline.ingest(archive, source, workers=workers)
    assert done.totals.missing == 0
    print(json.dumps({"seconds": watch.seconds, "peak": watch.peak, "parts": parts}))


def _timed(module: object, name: str, parts: dict[str, float]) -> None:
    """Add up the wall time that a function takes; reading and storing overlap."""
    original: Callable[..., object] = getattr(module, name)

    def timed(*args: object, **kwargs: object) -> object:
        started = time.monotonic()
        try:
            return original(*args, **kwargs)
        finally:
            parts[name.strip("_")] = round(parts.get(name.strip("_"), 0) + time.monotonic() - started, 2)

    setattr(module, name, timed)


def bench_eligibility() -> list[Row]:
    command = [sys.executable, "-m", "tests.bench.eligibility"]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"RECORDS": os.environ.get("RECORDS", "1000000")}, check=True)
    return []


PARTS: dict[str, Callable[[], list[Row]]] = {
    "help": bench_help,
    "samples": bench_samples,
    "corpus": bench_corpus,
    "floor": bench_floor,
    "eligibility": bench_eligibility,
}


def table(rows: list[Row]) -> Iterator[str]:
    widths = [max(len(r[i]) for r in rows) for i in range(4)]
    for what, found, most, verdict in [("", "found", "at most", ""), *rows]:
        yield f"{what:<{widths[0]}}  {found:>{max(widths[1], 5)}}  {most:>{max(widths[2], 7)}}  {verdict}"


def main() -> None:
    if sys.argv[1:2] == ["--ingest"]:
        _ingest_here(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
        return
    wanted = sys.argv[1:] or list(PARTS)
    if unknown := [part for part in wanted if part not in PARTS]:
        raise SystemExit(f"bench: no part {unknown[0]!r}; expected some of {', '.join(PARTS)}")
    rows: list[Row] = []
    for part in wanted:
        rows += PARTS[part]()
    print("\n".join(table(rows)))
    if any(r[3] == "MISSED" for r in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

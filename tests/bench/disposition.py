"""Disposition at size: propose, sign and execute, beside bare deletes of as many objects with the same parallelism.

    DUE=100000 python -m tests.bench.disposition

The records are real as far as a destruction goes: objects in the embedded S3, wrapped keys, descriptor lines,
descriptions and sightings. The goal is at least half of the records a second that the floor deletes.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil

from retention import descriptors, embedded, policy
from retention.archive import Archive, open_archive, store_keys
from retention.config import Settings
from retention.database import transaction
from retention.disposition import execution, plans, proposing, reviewing
from retention.disposition.reviewing import Decided, Decision, Selection
from retention.model import new_id
from retention.seal import new_record_key
from retention.vault.s3_requests import connect, place_of
from tests.archive_builder import SCHEDULE, enrol, sign

GOAL = 0.5
_CHUNK = 5_000
_LINE = 400  # bytes of a sealed description


def now() -> datetime:
    return datetime.now(UTC)


def fill(archive: Archive, client: Any, bucket: str, prefix: str, count: int) -> None:
    """`count` records that are due, in chunks."""
    for start in range(0, count, _CHUNK):
        _chunk(archive, client, bucket, prefix, min(_CHUNK, count - start))


def _chunk(archive: Archive, client: Any, bucket: str, prefix: str, count: int) -> None:
    ids = [new_id(now()) for _ in range(count)]
    contents = {record: os.urandom(300) for record in ids}

    def put(record: UUID) -> tuple[UUID, bytes, str]:
        digest = sha256(contents[record]).digest()
        key = f"{prefix}records/{record}/{digest.hex()}"
        answer = client.put_object(Bucket=bucket, Key=key, Body=contents[record])
        return record, digest, answer["VersionId"]

    stored = in_threads(put, ids, archive.settings.vault_threads)
    objects, lines = descriptors.store(archive, ((record, 1, os.urandom(_LINE)) for record in ids), now())
    with transaction(archive.connections) as conn:
        key = plans.class_key(conn, "SHORT")
        conn.execute(
            "INSERT INTO records (record_id, bytes, recorded_at, received, class_key) "
            "SELECT unnest(%s::uuid[]), 200, now(), %s, %s",
            (ids, date(2020, 1, 15), key),
        )
        conn.execute(
            """INSERT INTO contents (record_id, sealed_sha256, sealed_bytes, version, commitment, verified_at)
               SELECT n.id, n.digest, 300, n.version, n.digest, now()
                 FROM unnest(%s::uuid[], %s::bytea[], %s::text[]) AS n(id, digest, version)""",
            ([row[0] for row in stored], [row[1] for row in stored], [row[2] for row in stored]),
        )
        conn.execute(
            """INSERT INTO descriptions (subject_id, revision, kind, name, source, place, metadata, messages, search)
               SELECT id, 1, 'record', 'letter.txt', 'bench', id::text, '{}', '[]', to_tsvector('simple', id::text)
                 FROM unnest(%s::uuid[]) AS id""",
            (ids,),
        )
        conn.execute(
            """INSERT INTO sightings (place, content, subject_id, first_seen, last_seen)
               SELECT sha256(uuid_send(id)), sha256(uuid_send(id)), id, now(), now() FROM unnest(%s::uuid[]) AS id""",
            (ids,),
        )
        store_keys(conn, archive.safe, {record: (new_record_key(), "SHORT") for record in ids}, now())
        descriptors.insert(conn, objects, lines, now())


def in_threads(call: Callable[[UUID], Any], ids: Iterable[UUID], count: int) -> list[Any]:
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(call, ids))


def floor(client: Any, bucket: str, prefix: str, count: int, threads: int) -> float:
    """Seconds of bare deletes, each of one version."""
    ids = [new_id(now()) for _ in range(count)]

    def put(record: UUID) -> str:
        version: str = client.put_object(Bucket=bucket, Key=f"{prefix}floor/{record}", Body=os.urandom(300))[
            "VersionId"
        ]
        return version

    versions = dict(zip(ids, in_threads(put, ids, threads), strict=True))
    started = time.monotonic()
    in_threads(
        lambda record: client.delete_object(Bucket=bucket, Key=f"{prefix}floor/{record}", VersionId=versions[record]),
        ids,
        threads,
    )
    return time.monotonic() - started


def main() -> None:
    count = int(os.environ.get("DUE", "20000"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        services = embedded.up(root, postgres=True, s3=True)
        try:
            settings = Settings(
                root=root,
                database_url=services.database_url,
                database_owner_url=services.owner_url,
                vault_url=services.vault_url,
                vault_access_key=services.access_key,
                vault_secret_key=services.secret_key,
                agent="bench",
            )
            with open_archive(settings, now()) as archive:
                measure(archive, count)
        finally:
            embedded.down(root)


def measure(archive: Archive, count: int) -> None:
    text = SCHEDULE.replace("limit_records: 1000", f"limit_records: {count}")
    policy.load(archive, text, "bench", now())
    enrol(archive, now)
    settings = archive.settings
    place = place_of(settings.vault_url)
    client = connect(place, settings.vault_access_key, settings.vault_secret_key)
    prefix = f"{place.prefix}/" if place.prefix else ""
    fill(archive, client, place.bucket, prefix, count)
    bare = floor(client, place.bucket, prefix, count, settings.vault_threads)
    seconds: dict[str, float] = {}
    started = time.monotonic()

    def lap(name: str) -> None:
        nonlocal started
        seconds[name] = time.monotonic() - started
        started = time.monotonic()

    plan = proposing.propose(archive, now()).plan
    assert plan is not None
    lap("propose")
    reviewing.review(archive, plan, Selection(everything=True), Decided(Decision.APPROVE), now())
    sign(archive, plan, now())
    lap("review and sign")
    done = execution.execute(archive, plan, now)
    lap("execute")
    assert done.outcomes == {"destroyed": count} and done.certificate_id is not None, done
    peak = psutil.Process().memory_info().rss
    for name, taken in [("floor (bare deletes)", bare), *seconds.items()]:
        print(f"{name:24}{taken:9.1f} s {count / taken:9,.0f} records/s")
    ratio = bare / seconds["execute"]
    print(f"execute beside the floor {ratio:9.2f}   at least {GOAL}  {'ok' if ratio >= GOAL else 'MISSED'}")
    print(f"memory                   {peak / 2**20:9.0f} MiB")
    raise SystemExit(0 if ratio >= GOAL else 1)


if __name__ == "__main__":
    main()

"""One recovery point: written and read again, sharing its pages with the one before; a changed byte is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from retention import ledger
from retention.archive import Archive, open_archive
from retention.backup import points
from retention.backup.points import Written
from retention.config import Settings
from retention.database import transaction
from retention.errors import Damaged
from retention.history import keys
from retention.tlog.note import Verifier
from retention.vault import ensure_vault, open_vault
from retention.vault.base import Vault
from tests.archive_builder import Document, capture_all, load

Clock = Callable[[], datetime]


@pytest.fixture
def archive(settings: Settings, tmp_path: Path, clock: Clock) -> Iterator[Archive]:
    with open_archive(replace(settings, vault_url=f"file://{tmp_path}/vault"), clock()) as opened:
        load(opened, clock)
        keys.create(opened, "records.example.org/ledger", clock())
        capture_all(opened, [Document("LONG", f"document {n}") for n in range(20)], clock, tmp_path / "in")
        yield opened


@pytest.fixture
def second(tmp_path: Path) -> Vault:
    ensure_vault(f"file://{tmp_path}/second")
    return open_vault(f"file://{tmp_path}/second")


def write(archive: Archive, second: Vault, now: datetime) -> Written:
    with transaction(archive.connections) as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        key = keys.current(conn)
        head = (key.origin, *ledger.head(conn))
        return points.write(conn, second, head, None, keys.signer(archive, key), now)


def verifiers(archive: Archive) -> list[Verifier]:
    with transaction(archive.connections) as conn:
        return [key.verifier for key in keys.all_keys(conn)]


def test_what_was_written_is_read_again(archive: Archive, second: Vault, clock: Clock) -> None:
    point = write(archive, second, clock()).point
    assert points.listed(second) == [point.id]
    read = points.read(second, point.id, verifiers(archive))
    assert read == point
    assert points.problem(second, read) is None
    with transaction(archive.connections) as conn:
        for table in read.index.tables:
            content = b"".join(points.unpacked(second, page.sha256) for page in table.pages)
            query = f"CREATE TEMP TABLE back ON COMMIT DROP AS SELECT {', '.join(table.columns)} FROM {table.name}"
            conn.execute(f"{query} WITH NO DATA".encode())
            with conn.cursor().copy(f"COPY back ({', '.join(table.columns)}) FROM STDIN".encode()) as copy:
                copy.write(content)
            row = f"ROW({', '.join(f't.{column}' for column in table.columns)})"
            differ = conn.execute(
                f"SELECT count(*) FROM back b FULL JOIN {table.name} t ON b::text = {row}::text "
                f"WHERE b IS NULL OR t IS NULL".encode()
            ).fetchone()
            assert differ == (0,), table.name
            conn.execute("DROP TABLE back")
    found = {key: (size, digest) for key, size, digest in points.objects(second, read)}
    there = {one.key: one.size for name in ("records", "descriptors", "schedules") for one in archive.vault.list(name)}
    assert {key: size for key, (size, _) in found.items()} == there
    assert list(found) == sorted(found) and len(found) == read.index.count


def test_nothing_new_is_stored_once(archive: Archive, second: Vault, clock: Clock, tmp_path: Path) -> None:
    first = write(archive, second, clock())
    again = write(archive, second, clock())
    assert first.new == first.pages > 0 and (again.new, again.bytes) == (0, 0)
    capture_all(archive, [Document("LONG", "one more")], clock, tmp_path / "more")
    assert 0 < write(archive, second, clock()).new < first.new


def test_any_byte_that_changes_is_found(archive: Archive, second: Vault, clock: Clock, tmp_path: Path) -> None:
    point = write(archive, second, clock()).point
    known = verifiers(archive)
    for path in sorted((tmp_path / "second").glob("*/*")):
        path.chmod(0o600)
        content = path.read_bytes()
        for changed in (bytes([content[0] ^ 1, *content[1:]]), content[:-1], content[: len(content) // 2]):
            path.write_bytes(changed)
            with pytest.raises(Damaged, match=f"{path.parent.name}/{path.name}"):
                found = points.read(second, point.id, known)
                raise Damaged(points.problem(second, found) or "nothing is wrong")
        path.write_bytes(content)
    assert points.problem(second, points.read(second, point.id, known)) is None


def test_a_point_that_another_key_signed_is_none(archive: Archive, second: Vault, clock: Clock) -> None:
    point = write(archive, second, clock()).point
    keys.rotate(archive, clock())
    with pytest.raises(Damaged, match="expected a signature by"):
        points.read(second, point.id, verifiers(archive)[1:])


def test_a_row_more_changes_the_page_around_it() -> None:
    lines = [(b"%06d" % n, b"%06d\tx\n" % n) for n in range(0, 100_000, 2)]
    before = set(points._pages(lines))
    for place in (0, 123, 25_000, 50_000):
        more = [*lines[:place], (b"%06da" % (2 * place), b"new\n"), *lines[place:]]
        assert len(set(points._pages(more)) - before) <= 2
    assert len(before) > 8
    assert max(count for _, count in before) <= 10_000

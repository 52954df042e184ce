"""Every promise of retention/vault/base.py, over every store."""

from __future__ import annotations

import hashlib
import io
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from threading import Barrier

import pytest

from retention.errors import Damaged, MunimentError, NotFound, Refused, UsageError
from retention.vault import s3_versions
from retention.vault.base import LAST_LOCK, Lock, LockMode, Stored, Vault
from tests.conformance.stores import KEEPING_LOCKS, S3, UNVERSIONED, Store

KEY = "records/0192f0a1-7e57-7000-8000-000000000001/5f2b"
MIB = 1024 * 1024


def put(vault: Vault, key: str, content: bytes, lock: Lock | None = None) -> Stored:
    return vault.put(key, content, sha256=hashlib.sha256(content).digest(), size=len(content), lock=lock)


def read(vault: Vault, key: str, version: str = "") -> bytes:
    with vault.open(key, version) as file:
        return file.read()


def soon(seconds: float = 3600, mode: LockMode = LockMode.GOVERNANCE) -> Lock:
    return Lock(mode, datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds))


def at_once(calls: Sequence[Callable[[], Stored]]) -> tuple[list[Stored], list[MunimentError]]:
    """The calls, each in a thread, let go together: what they returned and what they raised."""
    gate = Barrier(len(calls))

    def call(each: Callable[[], Stored]) -> Stored | MunimentError:
        gate.wait()
        try:
            return each()
        except MunimentError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        came = list(pool.map(call, calls))
    stored = [each for each in came if isinstance(each, Stored)]
    return stored, [each for each in came if isinstance(each, MunimentError)]


# Put, open, stat, list


@pytest.mark.parametrize("size", [0, 1, 8 * MIB + 3])
def test_what_was_put_is_read_back(vault: Vault, size: int) -> None:
    content = os.urandom(size)
    stored = put(vault, KEY, content)
    assert (stored.key, stored.size, stored.sha256) == (KEY, size, hashlib.sha256(content).digest())
    assert (stored.lock, stored.hold) == (None, False)
    assert read(vault, KEY) == content
    assert read(vault, KEY, stored.version) == content
    seen = vault.stat(KEY, stored.version)
    assert (seen.key, seen.size, seen.version, seen.sha256) == (KEY, size, stored.version, None)
    assert vault.stat(KEY).version == stored.version
    assert seen.modified is not None
    assert abs(datetime.now(UTC) - seen.modified) < timedelta(minutes=5)
    assert [(each.key, each.size) for each in vault.list()] == [(KEY, size)]


def test_a_file_is_read_from_its_beginning(vault: Vault) -> None:
    content = os.urandom(9 * MIB)
    file = io.BytesIO(content)
    file.seek(77)
    vault.put(KEY, file, sha256=hashlib.sha256(content).digest(), size=len(content))
    assert read(vault, KEY) == content


@pytest.mark.parametrize("store", S3, indirect=True)
def test_a_large_object_goes_in_parts_and_keeps_its_lock(store: Store, vault: Vault) -> None:
    content = os.urandom(MIB) * 70
    lock = soon() if store.worm else None
    digest = hashlib.sha256(content).digest()
    stored = vault.put(KEY, io.BytesIO(content), sha256=digest, size=len(content), lock=lock)
    assert (stored.size, stored.sha256, stored.lock) == (len(content), digest, lock)
    assert vault.stat(KEY).lock == lock
    again = vault.put(KEY, content, sha256=digest, size=len(content), lock=lock)
    assert again.version == stored.version
    with pytest.raises(Refused, match="other bytes"):
        put(vault, KEY, content[:-1] + bytes([content[-1] ^ 1]))
    assert vault.sweep(datetime.now(UTC) + timedelta(days=1)) == 0


def test_the_same_bytes_again_change_nothing(vault: Vault) -> None:
    first = put(vault, KEY, b"evidence")
    again = put(vault, KEY, b"evidence")
    assert (again.version, again.sha256) == (first.version, first.sha256)
    assert vault.erase(KEY) == 1


def test_other_bytes_are_refused_and_the_original_stands(vault: Vault) -> None:
    first = put(vault, KEY, b"evidence")
    with pytest.raises(Refused, match="refusing to put"):
        put(vault, KEY, b"forgery!")
    assert read(vault, KEY) == b"evidence"
    assert vault.stat(KEY).version == first.version
    assert vault.erase(KEY) == 1


def test_what_is_replaced_is_gone(vault: Vault) -> None:
    vault.replace(KEY, b"one")
    assert read(vault, KEY) == b"one"
    stored = vault.replace(KEY, b"two")
    assert (stored.size, stored.sha256) == (3, hashlib.sha256(b"two").digest())
    assert (read(vault, KEY), read(vault, KEY, stored.version)) == (b"two", b"two")
    assert vault.replace(KEY, b"two").sha256 == stored.sha256
    assert vault.erase(KEY) == 1


def test_damaged_bytes_are_mended(vault: Vault) -> None:
    damaged = put(vault, KEY, b"the rihgt bytes")
    right = hashlib.sha256(b"the right bytes").digest()
    with pytest.raises(Damaged):
        vault.mend(KEY, damaged.version, b"others", sha256=right, size=15)
    assert read(vault, KEY, damaged.version) == b"the rihgt bytes"
    for content in (b"the right bytes", io.BytesIO(b"the right bytes")):
        stored = vault.mend(KEY, damaged.version, content, sha256=right, size=15)
        assert (stored.sha256, stored.size) == (right, 15)
        assert read(vault, KEY, stored.version) == read(vault, KEY) == b"the right bytes"
        damaged = stored
    assert vault.erase(KEY) == 1
    gone = vault.mend(KEY, "", b"the right bytes", sha256=right, size=15)
    assert read(vault, KEY, gone.version) == b"the right bytes"


@pytest.mark.parametrize("store", KEEPING_LOCKS, indirect=True)
def test_what_is_mended_is_kept_as_it_was(vault: Vault) -> None:
    damaged = put(vault, KEY, b"the rihgt bytes", soon())
    vault.hold(KEY, damaged.version, True)
    right = hashlib.sha256(b"the right bytes").digest()
    stored = vault.mend(KEY, damaged.version, b"the right bytes", sha256=right, size=15)
    seen = vault.stat(KEY, stored.version)
    assert seen.hold and seen.lock is not None
    assert seen.lock.until >= soon().until.replace(microsecond=0) - timedelta(seconds=60)
    assert read(vault, KEY, stored.version) == b"the right bytes"
    with pytest.raises(Refused):
        vault.erase(KEY)


def test_whoever_reads_what_is_replaced_gets_one_of_both_whole(vault: Vault) -> None:
    texts = [f"{number}".encode() * 10_000 for number in range(6)]
    vault.replace(KEY, texts[0])
    with ThreadPoolExecutor(1) as pool:
        replaced = pool.map(partial(vault.replace, KEY), texts)
        for _ in range(20):
            with suppress(NotFound):  # the version that was listed went before it was read
                assert read(vault, KEY) in texts
        list(replaced)
    assert read(vault, KEY) in texts and vault.erase(KEY) == 1


@pytest.mark.parametrize("store", KEEPING_LOCKS, indirect=True)
def test_what_is_kept_is_not_replaced(vault: Vault) -> None:
    put(vault, KEY, b"evidence", soon())
    with pytest.raises(Refused, match="refusing"):
        vault.replace(KEY, b"forgery!")
    assert read(vault, KEY) == b"evidence"


def test_eight_threads_put_the_same_bytes(vault: Vault) -> None:
    for turn in range(2):  # SeaweedFS takes a second for each writer that waits for the same key
        key = f"records/same/{turn}"
        stored, errors = at_once([partial(put, vault, key, b"one")] * 8)
        assert not errors
        assert len({each.version for each in stored}) == 1
        assert read(vault, key) == b"one"
        assert vault.erase(key) == 1


def test_eight_threads_put_different_bytes_and_one_wins(vault: Vault) -> None:
    for turn in range(2):  # SeaweedFS takes a second for each writer that waits for the same key
        key = f"records/different/{turn}"
        calls = [partial(put, vault, key, b"writer %d" % n) for n in range(8)]
        stored, errors = at_once(calls)
        assert len(stored) == 1
        assert [type(error) for error in errors] == [Refused] * 7
        assert hashlib.sha256(read(vault, key)).digest() == stored[0].sha256
        assert vault.erase(key) == 1


def test_bytes_that_are_not_as_announced_are_damaged_and_nothing_stays(vault: Vault) -> None:
    for content in (b"announced", io.BytesIO(b"announced")):
        with pytest.raises(Damaged, match="nothing was stored"):
            vault.put(KEY, content, sha256=hashlib.sha256(b"other").digest(), size=9)
        with pytest.raises(Damaged, match="nothing was stored"):
            vault.put(KEY, content, sha256=hashlib.sha256(b"announced").digest(), size=8)
        with pytest.raises(NotFound):
            vault.stat(KEY)
    assert list(vault.list()) == []


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "records//x", "records/../../x", "..", "records/.", "records/.hidden", "records/", "/",
     "records/\u05d0", "records/a b", "records/a\\b", "records/a\n", "records/\0", "a" * 201, "a/" * 400 + "b"],
)  # fmt: skip
def test_what_is_no_key_is_refused(vault: Vault, key: str) -> None:
    for verb in (lambda: put(vault, key, b"x"), lambda: vault.open(key), lambda: vault.stat(key),
                 lambda: vault.erase(key), lambda: vault.lock(key, "", soon())):  # fmt: skip
        with pytest.raises((UsageError, Refused)):
            verb()
    assert list(vault.list()) == []


@pytest.mark.parametrize("page", [2, 1000])
def test_the_list_is_in_order_of_bytes_and_keeps_to_the_folder(
    vault: Vault, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_versions, "PAGE", page)
    keys = ["records/a/x", "records/a-b/x", "records/a.b", "records/ab/x", "records/A/x", "records/a0", "records/a/x-1",
            "records/a/B", "descriptors/1", "z", "records/_", "ledger/000", "ledger/000.p/1", "ledger/001"]  # fmt: skip
    for key in keys:
        put(vault, key, key.encode())
    assert [each.key for each in vault.list()] == sorted(keys)
    below = [key for key in sorted(keys) if key.startswith("records/a/")]
    assert [each.key for each in vault.list("records/a")] == below
    assert [each.key for each in vault.list("records/a/")] == below
    assert list(vault.list("records/none")) == []
    assert list(vault.list("z")) == []
    with pytest.raises(UsageError):
        list(vault.list("../records"))


def test_two_vaults_in_one_store_do_not_see_each_other(store: Store) -> None:
    name = f"prefix-{time.monotonic_ns()}"
    one, other = store.open(f"{name}/a"), store.open(f"{name}/ab")
    put(one, KEY, b"one")
    assert list(other.list()) == []
    with pytest.raises(NotFound):
        other.stat(KEY)
    put(other, KEY, b"other")
    assert one.erase(KEY) == 1
    assert read(other, KEY) == b"other"
    assert name in other.url
    assert store.secret_key is None or store.secret_key not in other.url


@pytest.mark.parametrize("store", ["seaweedfs-unversioned"], indirect=True)
def test_a_list_out_of_order_beyond_mending_is_not_passed_on(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_versions, "WINDOW", 2)
    for key in ("a/1", "a/2", "a/3", "a/4", "a-b"):
        put(vault, key, b"x")
    with pytest.raises(Damaged, match="out of order"):
        list(vault.list())


@pytest.mark.parametrize("store", S3, indirect=True)
def test_a_list_longer_than_a_page_and_than_the_window(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_versions, "PAGE", 50)
    monkeypatch.setattr(s3_versions, "WINDOW", 70)
    keys = [f"records/{n:04d}/x" for n in range(160)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: put(vault, key, b"x"), keys))
    assert [each.key for each in vault.list("records")] == keys


def test_what_is_missing_is_not_found(vault: Vault) -> None:
    put(vault, "records/there/x", b"x")
    for verb in (lambda key: vault.open(key), lambda key: vault.stat(key)):
        for key in (KEY, "records/there", "records/there/x/y", "records"):
            with pytest.raises(NotFound if key != "records/there/x/y" else (NotFound, Refused)):
                verb(key)
    with pytest.raises(NotFound):
        vault.stat("records/there/x", "0" * 32)


def test_reading_is_streamed(vault: Vault) -> None:
    content = os.urandom(MIB) * 48
    put(vault, KEY, content)
    digest = hashlib.sha256(content).digest()
    del content
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = hashlib.sha256()
    with vault.open(KEY) as file:
        while chunk := file.read(64 * 1024):
            found.update(chunk)
    assert found.digest() == digest
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 16 * MIB


def test_a_file_may_be_closed_half_read(vault: Vault) -> None:
    put(vault, KEY, os.urandom(2 * MIB))
    for _ in range(40):  # more than the pool has connections
        with vault.open(KEY) as file:
            assert len(file.read(10)) == 10
    assert vault.stat(KEY).size == 2 * MIB


# Erase


def test_erase_twice(vault: Vault) -> None:
    put(vault, KEY, b"x")
    assert vault.erase(KEY) == 1
    assert vault.erase(KEY) == 0
    with pytest.raises(NotFound):
        vault.stat(KEY)
    with pytest.raises(NotFound):
        vault.open(KEY)
    assert list(vault.list()) == []
    put(vault, KEY, b"another record may have this key again")
    assert read(vault, KEY) == b"another record may have this key again"


def test_erase_takes_only_its_key(vault: Vault) -> None:
    for key in ("records/a/x", "records/a/x1", "records/a/x-1", "records/a/x.1"):
        put(vault, key, b"x")
    assert vault.erase("records/a/x") == 1
    assert [each.key for each in vault.list()] == ["records/a/x-1", "records/a/x.1", "records/a/x1"]


def test_erase_many_takes_each_whole_and_nothing_else(vault: Vault) -> None:
    keys = [f"records/{n}/x" for n in range(7)]
    versions = [put(vault, key, b"x").version for key in keys]
    put(vault, "records/0/x1", b"a key that begins with another one's name")
    objects = list(zip(keys[:6], versions[:6], strict=True))
    assert vault.erase_many(objects) == [None] * 6
    assert {each.key for each in vault.list()} == {"records/0/x1", "records/6/x"}
    assert vault.erase_many(objects) == [None] * 6  # again changes nothing
    assert vault.erase_many([]) == []


@pytest.mark.parametrize("version", ["", "given"])
def test_erase_many_without_a_version_leaves_no_marker(vault: Vault, version: str) -> None:
    stored = put(vault, KEY, b"x")
    assert vault.erase_many([(KEY, stored.version if version else "")]) == [None]
    assert list(vault.list()) == []
    assert vault.erase(KEY) == 0  # neither a version nor a delete marker is left


# Locks and holds

keeping_locks = pytest.mark.parametrize("store", KEEPING_LOCKS, indirect=True)
modes = pytest.mark.parametrize("mode", list(LockMode))


@pytest.mark.parametrize("store", UNVERSIONED, indirect=True)
def test_a_bucket_without_object_lock_says_so(vault: Vault) -> None:
    assert not vault.locks()
    put(vault, KEY, b"x")
    with pytest.raises(Refused, match="no Object Lock"):
        put(vault, "records/b", b"x", soon())
    with pytest.raises(Refused, match="no Object Lock"):
        vault.lock(KEY, "", soon())
    with pytest.raises(Refused, match="no Object Lock"):
        vault.hold(KEY, "", True)
    assert vault.stat(KEY).version == ""
    assert vault.erase(KEY) == 1


def test_only_a_store_that_enforces_locks_claims_them(store: Store, vault: Vault) -> None:
    assert vault.locks() is store.worm
    vault.check()


@keeping_locks
@modes
def test_a_lock_grows_only(vault: Vault, mode: LockMode) -> None:
    lock = soon(mode=mode)
    stored = put(vault, KEY, b"x", lock)
    assert stored.lock == lock
    assert vault.stat(KEY).lock == lock
    later = Lock(mode, lock.until + timedelta(hours=1))
    assert vault.lock(KEY, stored.version, later).lock == later
    assert vault.lock(KEY, "", later).lock == later
    with pytest.raises(Refused, match="refusing to shorten"):
        vault.lock(KEY, stored.version, lock)
    assert vault.stat(KEY, stored.version).lock == later
    again = put(vault, KEY, b"x", lock)
    assert (again.lock, again.version) == (later, stored.version)


@keeping_locks
def test_a_compliance_lock_never_becomes_governance(vault: Vault) -> None:
    lock = soon(mode=LockMode.COMPLIANCE)
    put(vault, KEY, b"x", lock)
    longer = Lock(LockMode.GOVERNANCE, lock.until + timedelta(hours=1))
    assert vault.lock(KEY, "", longer).lock == Lock(LockMode.COMPLIANCE, longer.until)


@keeping_locks
def test_an_unlocked_object_can_be_locked_later(vault: Vault) -> None:
    stored = put(vault, KEY, b"x")
    assert vault.stat(KEY).lock is None
    lock = soon()
    assert vault.lock(KEY, stored.version, lock).lock == lock
    with pytest.raises(Refused, match="refusing to erase"):
        vault.erase(KEY)


@keeping_locks
def test_putting_again_gives_the_lock_that_was_missing(vault: Vault) -> None:
    first = put(vault, KEY, b"x")
    lock = soon()
    again = put(vault, KEY, b"x", lock)
    assert (again.lock, again.version, again.sha256) == (lock, first.version, first.sha256)


@keeping_locks
def test_erase_many_tells_which_the_store_keeps(vault: Vault) -> None:
    kept = put(vault, "records/kept", b"x", soon(3600))
    held = put(vault, "records/held", b"x")
    vault.hold("records/held", held.version, True)
    free = put(vault, "records/free", b"x")
    told = vault.erase_many(
        [("records/kept", kept.version), ("records/free", free.version), ("records/held", held.version)]
    )
    assert [type(one) for one in told] == [Refused, type(None), Refused]
    assert {each.key for each in vault.list()} == {"records/kept", "records/held"}
    vault.hold("records/held", held.version, False)


@keeping_locks
@modes
def test_erase_is_refused_until_the_lock_ends(vault: Vault, mode: LockMode) -> None:
    lock = soon(3, mode)
    stored = put(vault, KEY, b"x", lock)
    with pytest.raises(Refused, match=r"refusing to erase .* until " + lock.until.isoformat().replace("+", r"\+")):
        vault.erase(KEY)
    assert read(vault, KEY, stored.version) == b"x"
    while datetime.now(UTC) < lock.until + timedelta(seconds=1):
        time.sleep(0.2)
    assert vault.erase(KEY) == 1
    assert vault.erase(KEY) == 0


@keeping_locks
def test_a_hold_goes_on_and_off(vault: Vault) -> None:
    stored = put(vault, KEY, b"x")
    assert vault.hold(KEY, stored.version, True).hold is True
    assert vault.hold(KEY, "", True).hold is True
    assert vault.stat(KEY).hold is True
    assert put(vault, KEY, b"x").hold is True
    with pytest.raises(Refused, match="legal hold"):
        vault.erase(KEY)
    assert read(vault, KEY) == b"x"
    assert vault.hold(KEY, stored.version, False).hold is False
    assert vault.erase(KEY) == 1


@keeping_locks
def test_a_hold_and_a_lock_do_not_change_each_other(vault: Vault) -> None:
    lock = soon()
    stored = put(vault, KEY, b"x", lock)
    held = vault.hold(KEY, stored.version, True)
    assert (held.lock, held.hold) == (lock, True)
    later = Lock(lock.mode, lock.until + timedelta(days=1))
    grown = vault.lock(KEY, stored.version, later)
    assert (grown.lock, grown.hold) == (later, True)
    assert vault.hold(KEY, stored.version, False).lock == later


@keeping_locks
def test_locking_what_is_missing_is_not_found(vault: Vault) -> None:
    with pytest.raises(NotFound):
        vault.lock(KEY, "", soon())
    with pytest.raises(NotFound):
        vault.hold(KEY, "", True)


@keeping_locks
def test_the_end_of_a_lock_is_utc_in_whole_seconds_and_before_2106(vault: Vault) -> None:
    lock = soon()
    odd = Lock(lock.mode, (lock.until + timedelta(microseconds=1)).astimezone(timezone(timedelta(hours=3))))
    rounded = Lock(lock.mode, lock.until + timedelta(seconds=1))
    assert put(vault, KEY, b"x", odd).lock == rounded
    assert vault.lock(KEY, "", odd).lock == rounded
    for_ever = Lock(LockMode.GOVERNANCE, datetime(2500, 1, 1, tzinfo=UTC))
    assert vault.lock(KEY, "", for_ever).lock == Lock(LockMode.GOVERNANCE, LAST_LOCK)
    assert vault.lock(KEY, "", for_ever).lock == Lock(LockMode.GOVERNANCE, LAST_LOCK)
    with pytest.raises(UsageError, match="time zone"):
        vault.lock(KEY, "", Lock(LockMode.GOVERNANCE, datetime(2050, 1, 1)))  # noqa: DTZ001 - that is tested


@keeping_locks
def test_eight_threads_put_the_same_locked_bytes(vault: Vault) -> None:
    put(vault, "records/first/x", b"x")  # so that an S3 vault has seen what its bucket honours
    lock = soon()
    stored, errors = at_once([lambda: put(vault, KEY, b"one", lock)] * 8)
    assert not errors
    assert {each.lock for each in stored} == {lock}
    assert len({each.version for each in stored}) == 1

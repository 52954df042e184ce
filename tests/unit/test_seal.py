"""The key safe: what it gives back, what it refuses, and that a crash leaves one that opens."""

from __future__ import annotations

import io
import multiprocessing
import shutil
import subprocess
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pyrage
import pytest

from retention import seal
from retention.errors import Damaged, NotFound, UsageError

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MONTH = date(2026, 11, 1)


def test_a_key_comes_back_from_its_wrapping(tmp_path: Path) -> None:
    bucket = seal.open_safe(tmp_path, NOW).current("FIN-010", date(2026, 11, 22), NOW)
    key = seal.new_record_key()
    wrapped = bucket.wrap(key)
    assert len(wrapped) == 40
    again = seal.open_safe(tmp_path, NOW).bucket(bucket.id)
    assert again.month == MONTH
    assert again.unwrap(wrapped) == key
    with pytest.raises(Damaged, match="does not unwrap"):
        again.unwrap(bytes([wrapped[0] ^ 1]) + wrapped[1:])


def test_any_age_implementation_opens_what_is_sealed() -> None:
    key = seal.new_record_key()
    streamed = io.BytesIO()
    key.seal_file(io.BytesIO(b"x" * 200_000), streamed)
    assert pyrage.decrypt(streamed.getvalue(), [pyrage.x25519.Identity.from_str(str(key.identity))]) == b"x" * 200_000
    assert key.open(key.seal("מסמך".encode())).decode() == "מסמך"


def test_another_key_opens_nothing() -> None:
    with pytest.raises(Damaged, match="do not open"):
        seal.new_record_key().open(seal.new_record_key().seal(b"secret"))


def test_secrets_are_in_no_repr_and_only_in_private_files(tmp_path: Path) -> None:
    safe = seal.open_safe(tmp_path, NOW)
    bucket = safe.current("FIN-010", MONTH, NOW)
    for shown in (repr(safe), repr(bucket), repr(seal.RecordKey(b"\x07" * 32))):
        assert "AGE-SECRET" not in shown
        assert bucket.key.hex() not in shown
        assert repr(bucket.key) not in shown
        assert "\\x07" not in shown
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}


def test_a_root_that_others_may_read_is_refused(tmp_path: Path) -> None:
    seal.open_safe(tmp_path, NOW)
    (tmp_path / "root.key").chmod(0o640)
    with pytest.raises(UsageError, match="refusing to use .*root.key.*chmod 600"):
        seal.open_safe(tmp_path, NOW)


@pytest.mark.parametrize(("lost", "may_create"), [("root.key", True), ("root.key", False), ("safe.age", False)])
def test_half_a_safe_is_never_replaced(tmp_path: Path, lost: str, may_create: bool) -> None:
    seal.open_safe(tmp_path, NOW)
    (tmp_path / lost).unlink()
    with pytest.raises(UsageError, match=f"{lost} missing"):
        seal.open_safe(tmp_path, NOW, may_create=may_create)


def test_a_crash_of_the_first_use_leaves_a_root_that_gets_its_safe(tmp_path: Path) -> None:
    seal.open_safe(tmp_path, NOW)
    root = (tmp_path / "root.key").read_bytes()
    (tmp_path / "safe.age").unlink()
    seal.open_safe(tmp_path, NOW)
    assert (tmp_path / "root.key").read_bytes() == root


def test_a_catalog_with_keys_gets_no_new_safe(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="missing"):
        seal.open_safe(tmp_path / "keys", NOW, may_create=False)
    assert not (tmp_path / "keys" / "root.key").exists()


def test_a_safe_of_another_root_is_named_as_damage(tmp_path: Path) -> None:
    for name in ("a", "b"):
        seal.open_safe(tmp_path / name, NOW)
    shutil.copy(tmp_path / "a" / "root.key", tmp_path / "b" / "root.key")
    with pytest.raises(Damaged, match="do not belong together"):
        seal.open_safe(tmp_path / "b", NOW)


def test_a_key_that_is_gone_is_said_to_be_gone(tmp_path: Path) -> None:
    other = seal.open_safe(tmp_path / "b", NOW).current("X", MONTH, NOW)
    with pytest.raises(NotFound, match="no bucket"):
        seal.open_safe(tmp_path / "a", NOW).bucket(other.id)


def _ask(folder: Path, scope: str, answers: multiprocessing.queues.Queue[str]) -> None:
    answers.put(str(seal.open_safe(folder, NOW).current(scope, MONTH, NOW).id))


def test_processes_at_once_agree_on_one_bucket(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.queues.Queue[str] = context.Queue()
    asking = [context.Process(target=_ask, args=(tmp_path, f"C{n % 2}", answers)) for n in range(6)]
    for process in asking:
        process.start()
    found = [answers.get(timeout=60) for _ in asking]
    for process in asking:
        process.join()
    assert len(set(found)) == 2
    for bucket in found:
        assert seal.open_safe(tmp_path, NOW).bucket(UUID(bucket))


def test_a_crash_while_writing_leaves_the_former_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = seal.open_safe(tmp_path, NOW).current("A", MONTH, NOW)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("os.fsync", crash)
        with pytest.raises(KeyboardInterrupt):
            seal.open_safe(tmp_path, NOW).current("B", MONTH, NOW)
    assert seal.open_safe(tmp_path, NOW).bucket(kept.id) == kept
    assert {p.name for p in tmp_path.iterdir()} == {".lock", "root.key", "safe.age"}


def test_pseudonyms_keep_parts_apart_and_belong_to_one_safe(tmp_path: Path) -> None:
    safe = seal.open_safe(tmp_path / "a", NOW)
    assert safe.place("ab", "c") != safe.place("a", "bc")
    assert safe.place("a", "\udcff") != safe.place("a", "ÿ")
    assert safe.pseudonym("person", "Ruth") == seal.open_safe(tmp_path / "a", NOW).pseudonym("person", "Ruth")
    assert safe.pseudonym("person", "Ruth") != seal.open_safe(tmp_path / "b", NOW).pseudonym("person", "Ruth")


def test_a_commitment_goes_with_its_key() -> None:
    key, digest = seal.new_record_key(), sha256(b"a guessable document").digest()
    assert key.commitment(digest) == key.commitment(digest) != seal.new_record_key().commitment(digest)
    assert digest not in key.commitment(digest)


def test_the_signing_key_stays_the_same(tmp_path: Path) -> None:
    first = seal.signing_key(tmp_path).sign(b"x")
    seal.signing_key(tmp_path).public_key().verify(first, b"x")
    assert (tmp_path / "signing.key").stat().st_mode & 0o777 == 0o600


def test_no_secret_is_an_argument_of_a_process(tmp_path: Path) -> None:
    seal.open_safe(tmp_path, NOW)
    secret = (tmp_path / "root.key").read_text().strip()
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert secret not in listed

"""The root of the key safe: replaced without a moment at which nothing opens, whoever has the safe open."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import boto3
import pyrage
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.kms.models import KmsBackend

from retention import private_files, roots, seal
from retention.errors import Damaged, MunimentError, NotFound, Refused, ServiceUnavailable, UsageError
from retention.roots import Root, identity_of, in_file, new_root, read_root
from retention.seal import Safe, new_record_key, open_safe
from tests.breaking import Broken, Writes, at

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
MONTH = date(2026, 11, 1)


@pytest.fixture
def safe(tmp_path: Path) -> Safe:
    made = open_safe(tmp_path, NOW)
    made.current("A", MONTH, NOW)
    return made


def opens(content: bytes, root: Root) -> bool:
    try:
        pyrage.decrypt(content, [root.identity])
    except pyrage.DecryptError:
        return False
    return True


def test_a_root_is_its_secret() -> None:
    root = new_root()
    assert len(root.secret) == 32
    assert str(identity_of(root.secret)) == str(root.identity)
    assert in_file(identity_of(root.secret)).id == root.id != new_root().id
    assert "AGE-SECRET" not in repr(root)


def test_another_root_opens_the_safe_alone(safe: Safe) -> None:
    first, second = safe.root, new_root()
    kept = safe.buckets()
    sealed = safe.seal(b"locked")
    safe.replace_root(second, LATER)
    content = (safe.folder / "safe.age").read_bytes()
    assert opens(content, second) and not opens(content, first)
    again = open_safe(safe.folder, LATER, may_create=False)
    assert again.root.id == second.id and again.buckets() == kept and again.tag == safe.tag
    assert [(one.id, one.retired_at) for one in again.former] == [(first.id, LATER)]
    assert again.open(sealed, "x") == b"locked" == safe.open(safe.seal(b"locked"), "x")
    assert "secret" not in repr(again) and "AGE-SECRET" not in repr(again)
    again.drop_roots([first.id], LATER)
    assert open_safe(safe.folder, LATER).former == ()
    with pytest.raises(Damaged, match="neither the root key nor one before it"):
        again.open(sealed, "x")


def test_who_has_the_safe_open_goes_on(safe: Safe) -> None:
    """A process that read the safe under the former root finds, makes and seals under the present one."""
    other = open_safe(safe.folder, NOW)
    safe.replace_root(new_root(), LATER)
    made = safe.current("B", MONTH, LATER)
    assert other.bucket(made.id) == made and other.root.id == safe.root.id
    late = open_safe(safe.folder, NOW)
    safe.replace_root(new_root(), LATER)
    written = late.current("C", MONTH, LATER)  # a write of its own
    assert safe.bucket(written.id) == written and len(safe.former) == 2
    later = open_safe(safe.folder, NOW)
    safe.replace_root(new_root(), LATER)
    assert opens(later.seal(b"x"), safe.root)
    assert later.open(safe.seal(b"x"), "x") == b"x"


@pytest.mark.parametrize("persisted", [False, True])
@pytest.mark.parametrize("write", [1, 2, 3])
def test_a_replacement_that_dies_leaves_a_safe_that_opens(
    safe: Safe, monkeypatch: pytest.MonkeyPatch, write: int, persisted: bool
) -> None:
    key, bucket = new_record_key(), safe.current("A", MONTH, NOW)
    wrapped, first, second = bucket.wrap(key), safe.root, new_root()
    other = open_safe(safe.folder, NOW)
    writes: Writes = at(write, persisted=persisted)
    real = private_files.write_private

    def broken(path: Path, content: bytes) -> None:
        with writes.one():
            real(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(seal, "write_private", broken)
        with pytest.raises(Broken):
            safe.replace_root(second, LATER)
    assert writes.broke
    found = open_safe(safe.folder, LATER, may_create=False)
    replaced = (write, persisted) in {(2, True), (3, False), (3, True)}
    assert (found.root.id == second.id) == replaced
    assert [one.id for one in found.former] == ([first.id] if replaced else [])
    made = other.current("B", MONTH, LATER)  # by a process that knows of nothing
    for one in (found, open_safe(safe.folder, LATER)):
        assert one.bucket(bucket.id).unwrap(wrapped) == key and one.bucket(made.id) == made
    content = (safe.folder / "safe.age").read_bytes()
    assert opens(content, second) == replaced and opens(content, first) != replaced  # what was cut off is over
    found.replace_root(new_root(), LATER)
    assert open_safe(safe.folder, LATER).bucket(bucket.id).unwrap(wrapped) == key


# ---------------------------------------------------------------- AWS KMS


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The ARN of a key that seals."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws():
        yield str(boto3.client("kms").create_key(KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]["Arn"])


def test_a_root_in_kms_is_never_on_disk(safe: Safe, key: str) -> None:
    boto3.client("kms").create_alias(AliasName="alias/root", TargetKeyId=key)
    bucket, root = safe.current("A", MONTH, NOW), new_root("alias/root")
    safe.replace_root(root, LATER)
    assert root.kms == key  # the key and not its alias, which can be pointed elsewhere
    for path in safe.folder.iterdir():
        content = path.read_bytes()
        assert str(root.identity).encode() not in content and root.secret not in content
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = open_safe(safe.folder, LATER, may_create=False)
    assert found.bucket(bucket.id) == bucket and found.root.kms == key and found.root.id == root.id
    with kms_says("DisabledException"):
        assert found.current("B", MONTH, LATER).scope == "B"  # who has the safe open has asked
        with pytest.raises(Refused, match="it cannot be used now"):
            open_safe(safe.folder, LATER)
    found.replace_root(new_root(), LATER)
    assert (safe.folder / "root.key").read_bytes().startswith(b"AGE-SECRET-KEY-1")


def kms_says(code: str, status: int = 400) -> Any:
    said: Any = {"Error": {"Code": code, "Message": "said KMS."}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return patch.object(KmsBackend, "decrypt", side_effect=ClientError(said, "Decrypt"))


@pytest.mark.parametrize(
    ("status", "code", "kind", "match"),
    [
        (400, "AccessDeniedException", UsageError, "needs kms:Encrypt, kms:Decrypt"),
        (400, "DisabledException", Refused, "it cannot be used now"),
        (400, "KMSInvalidStateException", Refused, "cancel its deletion"),
        (400, "NotFoundException", NotFound, "there is none of that name"),
        (400, "IncorrectKeyException", Damaged, "it does not open this"),
        (500, "KMSInternalException", ServiceUnavailable, "Try again later"),
    ],
)
def test_what_kms_refuses(safe: Safe, key: str, status: int, code: str, kind: type[MunimentError], match: str) -> None:
    """A root that KMS does not open again is never taken, and a safe in it does not open, with the reason."""
    before = {path.name: path.read_bytes() for path in safe.folder.iterdir()}
    with kms_says(code, status), pytest.raises(kind, match=match):
        safe.replace_root(new_root(key), LATER)
    assert {path.name: path.read_bytes() for path in safe.folder.iterdir()} == before
    safe.replace_root(new_root(key), LATER)
    with kms_says(code, status), pytest.raises(kind, match=match):
        open_safe(safe.folder, LATER)


def test_keys_that_are_not_taken(key: str) -> None:
    signs = boto3.client("kms").create_key(KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P256")["KeyMetadata"]["Arn"]
    with pytest.raises(UsageError, match="expected key usage ENCRYPT_DECRYPT and key spec .*, found SIGN"):
        new_root(signs)
    with pytest.raises(NotFound, match="there is none of that name"):
        new_root("alias/none")


def test_a_root_that_was_sealed_as_another_is_named_as_damage(tmp_path: Path, key: str) -> None:
    path, root, other = tmp_path / roots.FILE, new_root(key), new_root(key)
    kept, foreign = json.loads(root.file), json.loads(other.file)
    private_files.write_private(path, json.dumps(kept | {"sealed": foreign["sealed"]}).encode())
    with pytest.raises(Damaged, match="it does not open this"):
        read_root(path)
    private_files.write_private(path, root.file)
    assert read_root(path).id == root.id


def test_what_is_no_root_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / roots.FILE
    for content in (
        b"",
        b"x",
        b"{}",
        b"{",
        b'{"format": 1}',
        b'{"format": 1, "kms": "a", "recipient": "b", "sealed": 7}',
    ):
        private_files.write_private(path, content)
        with pytest.raises(UsageError, match="expected one line AGE-SECRET-KEY-1"):
            read_root(path)
    private_files.write_private(path, b'{"format": 2, "kms": "a", "recipient": "b", "sealed": ""}')
    with pytest.raises(UsageError, match="expected format 1, found 2"):
        read_root(path)

"""The ledger's key in AWS KMS. moto's KMS has no Ed25519 yet: `Ed25519` below is a key of it that has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import boto3
import pytest
from botocore.exceptions import ClientError
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from moto import mock_aws
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.kms.models import Key, KmsBackend, kms_backends
from moto.kms.utils import AbstractPrivateKey

from retention import kms
from retention.errors import MunimentError, NotFound, Refused, ServiceUnavailable, UsageError
from tests.office import ORIGIN, Office, files, refuses

REGION = "eu-central-1"


class Ed25519(AbstractPrivateKey):
    """What AWS keeps of a key of the kind ECC_NIST_EDWARDS25519."""

    asked: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()

    def sign(self, message: bytes, signing_algorithm: str) -> bytes:
        assert signing_algorithm == kms.ALGORITHM and len(message) <= 4096
        self.asked.append(message.decode())
        return self.key.sign(message)

    def verify(self, message: bytes, signature: bytes, signing_algorithm: str) -> bool:
        try:
            self.key.public_key().verify(signature, message)
        except InvalidSignature:
            return False
        return signing_algorithm == kms.ALGORITHM

    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[KmsBackend]:
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": REGION}.items():
        monkeypatch.setenv(name, value)
    Ed25519.asked.clear()
    with mock_aws(), patch.object(Key, "signing_algorithms", [kms.ALGORITHM]):
        yield kms_backends[DEFAULT_ACCOUNT_ID][REGION]


def made(backend: KmsBackend, spec: str = kms.SPEC) -> str:
    """The ARN of a key that signs."""
    found = boto3.client("kms").create_key(KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P256")["KeyMetadata"]
    key = backend.keys[found["KeyId"]]
    key.key_spec = spec
    if spec == kms.SPEC:
        key.private_key = Ed25519()
    return str(found["Arn"])


def test_a_key_that_is_never_here(run: Office, backend: KmsBackend, tmp_path: Path) -> None:
    """It takes over from a file, signs, and hands over to the next; whoever trusts the first key trusts all."""
    keys = files(run.settings.root / "keys")
    first, second = made(backend), made(backend)
    boto3.client("kms").create_alias(AliasName="alias/ledger", TargetKeyId=first)
    took = run("ledger", "rotate", "--kms", "alias/ledger")
    assert took["kms"] == first and took["number"] == 2 and "file" not in took
    boto3.client("kms").update_alias(AliasName="alias/ledger", TargetKeyId=second)  # it stays the one that it was
    run("ledger", "publish")
    assert run("ledger", "rotate", "--kms", second)["number"] == 3
    run.append(5)
    size = run("ledger", "publish")["size"]
    assert files(run.settings.root / "keys") == keys and keys.keys() >= {"root.key"}
    run("ledger", "export", tmp_path / "audit")
    found = run("verify", "--offline", tmp_path / "audit", "--key", run.vkey)
    assert found["ok"] and found["size"] == size and run("verify", "--documents", "0")["ok"]
    assert [one["kept_in"].partition(":")[0] for one in run("ledger", "key")["keys"]] == ["file", "kms", "kms"]
    assert sum(text.startswith(f"{ORIGIN}\n{size}\n") for text in Ed25519.asked) == 1
    run("ledger", "rotate")  # and back to a file
    assert run("ledger", "publish")["size"] == size + 1


def refused(run: Office, kind: type[MunimentError], match: str, *arguments: object) -> None:
    before, known = files(run.vault), run("ledger", "key")["keys"]
    refuses(kind, match, run, *arguments)
    assert files(run.vault) == before and run("ledger", "key")["keys"] == known


def test_keys_that_are_not_taken(run: Office, backend: KmsBackend) -> None:
    rotate = ("ledger", "rotate", "--kms")
    refused(run, UsageError, "expected key usage SIGN_VERIFY and key spec", *rotate, made(backend, "ECC_NIST_P256"))
    refused(run, NotFound, "there is none of that name", *rotate, "00000000-0000-0000-0000-000000000000")
    key = made(backend)
    run(*rotate, key)
    refused(run, Refused, "refusing to take kms:.* again: it is key 2", *rotate, key)
    other, asked = made(backend), made(backend)
    with patch.object(backend.keys[other.rpartition("/")[2]].private_key, "public_key", Ed25519().public_key):
        refused(run, Refused, "the private key is not the one of", *rotate, other)
    boto3.client("kms").disable_key(KeyId=asked.rpartition("/")[2])
    with patch.object(KmsBackend, "sign", side_effect=answer(400, "DisabledException")):
        refused(run, Refused, "it cannot be used now", *rotate, asked)


def answer(status: int, code: str) -> ClientError:
    said: Any = {"Error": {"Code": code, "Message": "said KMS."}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(said, "Sign")


@pytest.mark.parametrize(
    ("status", "code", "kind", "match"),
    [
        (400, "AccessDeniedException", UsageError, "needs kms:Sign"),
        (400, "UnrecognizedClientException", UsageError, "needs kms:Sign"),
        (400, "KMSInvalidStateException", Refused, "cancel its deletion"),
        (500, "KMSInternalException", ServiceUnavailable, "Try again later"),
        (400, "ThrottlingException", ServiceUnavailable, "Try again later"),
        (400, "ValidationException", UsageError, "KMS refuses .ValidationException"),
    ],
)
def test_what_kms_refuses_publishes_nothing(
    run: Office, backend: KmsBackend, status: int, code: str, kind: type[MunimentError], match: str
) -> None:
    run("ledger", "rotate", "--kms", made(backend))
    with patch.object(KmsBackend, "sign", side_effect=answer(status, code)):
        published = "ledger/checkpoint"
        refuses(kind, match, run, "ledger", "publish")
        assert published not in files(run.vault)
    assert run("ledger", "publish")["before"] == 0


def test_where_kms_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(UsageError, match="region"):
        kms.signing_key("alias/ledger")
    arn = f"arn:aws:kms:{REGION}:123456789012:key/1"
    with pytest.raises(UsageError, match="credentials"):
        kms.sign(arn, b"x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:9")
    with pytest.raises(ServiceUnavailable, match="does not answer"):
        kms.sign(arn, b"x")

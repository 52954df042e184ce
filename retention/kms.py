"""Keys in AWS KMS: what signs or seals there is never seen here.

Rules of this module:
- A key that signs is of the kind ECC_NIST_EDWARDS25519, and signs the message itself (ED25519_SHA_512, RAW): the
  Ed25519 of RFC 8032, which is what signed notes have. KMS takes at most 4,096 bytes; a checkpoint has some hundred.
- A key that seals is symmetric. What it sealed (at most 4,096 bytes) is opened only with the same *encryption context*,
  names that KMS binds to it and writes into its own log.
- A key is remembered by its ARN, which says region and account too: an alias can be pointed at another key.
- Who asks, and where, is what boto3 finds in its environment (AWS_ENDPOINT_URL_KMS for another service).
- What KMS refuses is said with the next step, and not tried again; what did not answer is tried a few times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retention.errors import Damaged, MunimentError, NotFound, Refused, ServiceUnavailable, UsageError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

SPEC, ALGORITHM = "ECC_NIST_EDWARDS25519", "ED25519_SHA_512"
SEALING = "SYMMETRIC_DEFAULT"
_SIGNS = "kms:Sign, kms:GetPublicKey and kms:DescribeKey"  # what whoever asks needs
_SEALS = "kms:Encrypt, kms:Decrypt and kms:DescribeKey"
_ARN = re.compile(r"arn:[^:]+:kms:([^:]+):[^:]+:(key|alias)/.+")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs: its ARN, and the 32 bytes of its public half."""

    arn: str
    public: bytes


def signing_key(key_id: str) -> SigningKey:
    """The Ed25519 key of this id, ARN or alias. Raises UsageError for one that cannot sign so, NotFound, Refused,
    ServiceUnavailable."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    with _asking(key_id, _SIGNS) as client:
        found = client.describe_key(KeyId=key_id)["KeyMetadata"]
        if found["KeyUsage"] != "SIGN_VERIFY" or found["KeySpec"] != SPEC:
            raise UsageError(
                f"KMS key {key_id}: expected key usage SIGN_VERIFY and key spec {SPEC}, found {found['KeyUsage']} and "
                f"{found['KeySpec']}. Make one: aws kms create-key --key-usage SIGN_VERIFY --key-spec {SPEC}"
            )
        public = load_der_public_key(client.get_public_key(KeyId=found["Arn"])["PublicKey"])
    assert isinstance(public, Ed25519PublicKey)
    return SigningKey(found["Arn"], public.public_bytes_raw())


def sign(arn: str, message: bytes) -> bytes:
    """64 bytes of Ed25519 over `message` (at most 4,096 bytes). Raises as `signing_key` does."""
    with _asking(arn, _SIGNS) as client:
        answer = client.sign(KeyId=arn, Message=message, MessageType="RAW", SigningAlgorithm=ALGORITHM)
    signature: bytes = answer["Signature"]
    return signature


def wrapping_key(key_id: str) -> str:
    """The ARN of the symmetric key of this id, ARN or alias. Raises UsageError for one that cannot seal, NotFound,
    Refused, ServiceUnavailable."""
    with _asking(key_id, _SEALS) as client:
        found = client.describe_key(KeyId=key_id)["KeyMetadata"]
    usage, spec = found.get("KeyUsage"), found.get("KeySpec")
    if usage != "ENCRYPT_DECRYPT" or spec != SEALING:
        raise UsageError(
            f"KMS key {key_id}: expected key usage ENCRYPT_DECRYPT and key spec {SEALING}, found {usage} and {spec}. "
            "Make one: aws kms create-key"
        )
    return str(found["Arn"])


def encrypt(arn: str, content: bytes, context: Mapping[str, str]) -> bytes:
    """`content` (at most 4,096 bytes) as the key sealed it. Raises as `wrapping_key` does."""
    with _asking(arn, _SEALS) as client:
        answer = client.encrypt(KeyId=arn, Plaintext=content, EncryptionContext=dict(context))
    sealed: bytes = answer["CiphertextBlob"]
    return sealed


def decrypt(arn: str, sealed: bytes, context: Mapping[str, str]) -> bytes:
    """What `encrypt` was given. Raises Damaged for what this key did not seal in this context, and as `wrapping_key`
    does."""
    with _asking(arn, _SEALS) as client:
        answer = client.decrypt(KeyId=arn, CiphertextBlob=sealed, EncryptionContext=dict(context))
    content: bytes = answer["Plaintext"]
    return content


@contextmanager
def _asking(key_id: str, needs: str) -> Iterator[Any]:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

    place = _ARN.fullmatch(key_id)
    patience = Config(connect_timeout=5, read_timeout=15, retries={"mode": "standard", "max_attempts": 4})
    try:
        yield boto3.client("kms", region_name=place[1] if place else None, config=patience)
    except ClientError as error:
        raise _in_words(key_id, needs, error) from None
    except (ConnectionError, HTTPClientError) as error:
        raise ServiceUnavailable(f"KMS key {key_id}: KMS does not answer: {error}. Try again later.") from None
    except BotoCoreError as error:  # no credentials, no region
        raise UsageError(
            f"KMS key {key_id}: {error}. Set what boto3 looks for: AWS_DEFAULT_REGION, and AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, a profile or a role."
        ) from None


def _in_words(key_id: str, needs: str, error: ClientError) -> MunimentError:
    code = error.response.get("Error", {}).get("Code", "")
    said = error.response.get("Error", {}).get("Message", "")
    match code:
        case "NotFoundException":
            return NotFound(f"KMS key {key_id}: there is none of that name: {said} Look at region and account.")
        case "DisabledException" | "KMSInvalidStateException" | "KeyUnavailableException":
            return Refused(
                f"KMS key {key_id}: it cannot be used now: {said} Enable it, or cancel its deletion, before its term "
                "ends: a key that was deleted is gone for good."
            )
        case "AccessDeniedException" | "UnrecognizedClientException" | "InvalidClientTokenId" | "ExpiredTokenException":
            return UsageError(
                f"KMS key {key_id}: KMS refuses ({code}): {said} Whoever runs Muniment needs {needs} for this key."
            )
        case "InvalidCiphertextException" | "IncorrectKeyException":
            return Damaged(
                f"KMS key {key_id}: it does not open this ({code}): another key sealed it, or it was changed. Restore "
                "the file from its backup, or recover the root from its shares: muniment key recover."
            )
        case _ if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500 or "Throttl" in code:
            return ServiceUnavailable(f"KMS key {key_id}: KMS does not do it now ({code}): {said} Try again later.")
        case _:
            return UsageError(f"KMS key {key_id}: KMS refuses ({code}): {said}")

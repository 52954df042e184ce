"""Keys in AWS KMS: what signs there is never seen here.

Rules of this module:
- A key that signs is of the kind ECC_NIST_EDWARDS25519, and signs the message itself (ED25519_SHA_512, RAW): the
  Ed25519 of RFC 8032, which is what signed notes have. KMS takes at most 4,096 bytes; a checkpoint has some hundred.
- A key is remembered by its ARN, which says region and account too: an alias can be pointed at another key.
- Who asks, and where, is what boto3 finds in its environment (AWS_ENDPOINT_URL_KMS for another service).
- What KMS refuses is said with the next step, and not tried again; what did not answer is tried a few times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retention.errors import MunimentError, NotFound, Refused, ServiceUnavailable, UsageError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

SPEC, ALGORITHM = "ECC_NIST_EDWARDS25519", "ED25519_SHA_512"
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

    with _asking(key_id) as client:
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
    with _asking(arn) as client:
        answer = client.sign(KeyId=arn, Message=message, MessageType="RAW", SigningAlgorithm=ALGORITHM)
    signature: bytes = answer["Signature"]
    return signature


@contextmanager
def _asking(key_id: str) -> Iterator[Any]:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

    place = _ARN.fullmatch(key_id)
    patience = Config(connect_timeout=5, read_timeout=15, retries={"mode": "standard", "max_attempts": 4})
    try:
        yield boto3.client("kms", region_name=place[1] if place else None, config=patience)
    except ClientError as error:
        raise _in_words(key_id, error) from None
    except (ConnectionError, HTTPClientError) as error:
        raise ServiceUnavailable(f"KMS key {key_id}: KMS does not answer: {error}. Try again later.") from None
    except BotoCoreError as error:  # no credentials, no region
        raise UsageError(
            f"KMS key {key_id}: {error}. Set what boto3 looks for: AWS_DEFAULT_REGION, and AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, a profile or a role."
        ) from None


def _in_words(key_id: str, error: ClientError) -> MunimentError:
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
                f"KMS key {key_id}: KMS refuses ({code}): {said} Whoever runs Muniment needs kms:Sign, "
                "kms:GetPublicKey and kms:DescribeKey for this key."
            )
        case _ if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500 or "Throttl" in code:
            return ServiceUnavailable(f"KMS key {key_id}: KMS does not do it now ({code}): {said} Try again later.")
        case _:
            return UsageError(f"KMS key {key_id}: KMS refuses ({code}): {said}")

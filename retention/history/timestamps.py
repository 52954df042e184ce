"""Time stamps (RFC 3161) of published checkpoints: an authority that is not ours says by when the history stood so.

Rules of this module:
- `ledger/timestamps/<size>/<SHA-256 of the answer>` is the authority's answer (TimeStampResp, DER) over the bytes of
  `ledger/checkpoints/<size>`, the note with the log's signature. Its name says what its bytes are: some of them no
  signature covers.
- Kept is what verifies with the authority's root certificate, which comes on another way, for a question that had a
  number of our own. One that is kept of the checkpoint under these roots is not asked for again.
- The authority learns a digest, and nothing else. Without one nothing is missing: cosignatures and copies stand.
- Locked as the copies are, where the vault can lock.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from cryptography.x509 import Certificate, ObjectIdentifier, load_pem_x509_certificates
from rfc3161_client import (
    HashAlgorithm,
    PKIStatus,
    TimestampRequestBuilder,
    TimeStampResponse,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)

from retention.archive import Archive
from retention.database import transaction
from retention.errors import Damaged, NotFound, Refused, ServiceUnavailable, UsageError
from retention.history import keys
from retention.history.publishing import COPIES, TIMESTAMPS, lock, newest
from retention.vault.base import Vault

PATH = re.compile(r"timestamps/([0-9]{20})/([0-9a-f]{64})")  # size, digest of the answer

_SHA256 = ObjectIdentifier("2.16.840.1.101.3.4.2.1")
_LARGEST = 100_000  # bytes of an answer; some thousands are usual
_PATIENCE = 30  # seconds


@dataclass(frozen=True, slots=True)
class Stamped:
    """The time stamp that stands: of how many events, when it was given, where it is, whether it is kept only now."""

    size: int
    time: datetime
    key: str
    new: bool


def certificates(path: Path) -> list[Certificate]:
    """Root certificates in PEM. Raises UsageError."""
    try:
        return load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: expected the authority's root certificate in PEM, found none: {error}") from None


def add(archive: Archive, url: str, roots: Sequence[Certificate], now: datetime) -> Stamped:
    """Have the newest published checkpoint stamped by the authority at `url`.

    Raises NotFound before anything was published, ServiceUnavailable, Refused for an answer that does not verify."""
    with transaction(archive.connections) as conn:
        known = keys.all_keys(conn)
    head = newest(archive.vault, known) if known else None
    if head is None:
        raise NotFound("nothing of the ledger was published yet. Publish it: `muniment ledger publish`, then again.")
    data = _read(archive.vault, f"{COPIES}/{head.size:020}")
    folder = f"{TIMESTAMPS}/{head.size:020}"
    for stored in archive.vault.list(folder):
        try:
            return Stamped(head.size, check(_read(archive.vault, stored.key), data, roots), stored.key, new=False)
        except (Damaged, Refused):
            continue  # of another authority; `verify` says whether it is damaged
    asked = TimestampRequestBuilder(data, HashAlgorithm.SHA256, nonce=True, cert_req=True).build()
    content = _ask(url, asked.as_bytes())
    try:
        time = check(content, data, roots, asked.nonce)
    except (Damaged, Refused) as error:
        raise Refused(f"refusing to keep the answer of {url}: {error}") from None
    digest = sha256(content)
    key = f"{folder}/{digest.hexdigest()}"
    archive.vault.put(key, content, sha256=digest.digest(), size=len(content), lock=lock(archive.vault, now))
    return Stamped(head.size, time, key, new=True)


def check(content: bytes, data: bytes, roots: Sequence[Certificate], nonce: int | None = None) -> datetime:
    """When `content`, an authority's answer, says that `data` was there.

    Raises Damaged for what is no time stamp of `data`, Refused for one that `roots` do not vouch for."""
    answer = _of(content, data)
    verifier = VerifierBuilder(roots=list(roots), nonce=nonce).build()
    try:
        verifier.verify_message(answer, data)
    except (VerificationError, ValueError) as error:
        raise Refused(f"none of the root certificates that were given vouches for it: {error}") from None
    return answer.tst_info.gen_time


def check_place(path: str, content: bytes, data: bytes | None) -> str | None:
    """Why `content` is not the time stamp whose place is `path` (PATH), of the checkpoint `data`; None if it is.

    Needs no certificate: whether the authority made it is another question."""
    place = PATH.fullmatch(path)
    if place is None:
        return "no file of a ledger. Look who put it there."
    if sha256(content).hexdigest() != place[2]:
        return f"its bytes have SHA-256 {sha256(content).hexdigest()}: it was changed."
    if data is None:
        return f"a time stamp of checkpoints/{place[1]}, which is missing."
    try:
        _of(content, data)
    except Damaged as error:
        return str(error)
    return None


def _of(content: bytes, data: bytes) -> TimeStampResponse:
    try:
        answer = decode_timestamp_response(content)
        status = PKIStatus(answer.status)
        if status is not PKIStatus.GRANTED:
            raise Damaged(f"the authority gave none, it answered {status.name.lower()}: {answer.status_string}")
        imprint = answer.tst_info.message_imprint
    except ValueError as error:
        raise Damaged(f"expected a time stamp (RFC 3161), found something else: {error}") from None
    if imprint.hash_algorithm != _SHA256 or imprint.message != sha256(data).digest():
        raise Damaged("it is the time stamp of something else than its checkpoint.")
    return answer


def _ask(url: str, question: bytes) -> bytes:
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise UsageError(f"{url[:200]!r}: expected http:// or https:// and the authority's host and path.")
    headers = {"Content-Type": "application/timestamp-query"}  # RFC 3161, section 3.4
    content = bytearray()
    try:
        with httpx.stream("POST", url, content=question, headers=headers, timeout=_PATIENCE) as answer:
            if answer.status_code != HTTPStatus.OK:
                said = f"{answer.status_code} {answer.reason_phrase}"
                raise ServiceUnavailable(f"{url}: expected a time stamp, it answered {said}.")
            for part in answer.iter_bytes(_LARGEST):
                content += part
                if len(content) > _LARGEST:
                    raise ServiceUnavailable(
                        f"{url}: expected a time stamp of at most {_LARGEST:,} bytes, it sends more."
                    )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServiceUnavailable(f"{url}: the authority does not answer: {error}. Try again later.") from None
    return bytes(content)


def _read(vault: Vault, key: str) -> bytes:
    with vault.open(key) as file:
        return file.read(1_000_000)

"""The vault: where the bytes of records are kept. `base` says what every vault promises.

Rules of this module:
- A URL selects the backend and says everything about the place but who asks: credentials are arguments
  (or what boto3 finds in its environment), never part of a URL, because URLs reach reports and logs.
- A backend is imported when it is opened: boto3 takes a third of a second, and `--help` needs none of it.
- Opening touches nothing. `Vault.check` says whether the place is usable, `ensure_vault` makes it.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from retention.errors import UsageError
from retention.vault.base import Vault


def open_vault(url: str, *, access_key: str | None = None, secret_key: str | None = None) -> Vault:
    """The vault at `file:///folder` or `s3://bucket/prefix?endpoint=…&region=…`.

    Without keys S3 takes them where boto3 does (environment, profile, role). Raises UsageError."""
    match _scheme(url):
        case "file":
            from retention.vault.local import LocalVault, root_of

            return LocalVault(root_of(url))
        case _:
            from retention.vault.s3 import S3Vault
            from retention.vault.s3_requests import connect, place_of
            from retention.vault.s3_wire import connect_wire

            place = place_of(url)
            return S3Vault(place, connect(place, access_key, secret_key), connect_wire(place, access_key, secret_key))


def ensure_vault(url: str, *, lock: bool = True, access_key: str | None = None, secret_key: str | None = None) -> None:
    """Make the folder or the bucket of `url` unless it is there; `lock` asks S3 for Object Lock.

    Running it again changes nothing. Raises UsageError if the bucket is there without the Object Lock asked
    for: most stores can switch it on only when the bucket is made."""
    match _scheme(url):
        case "file":
            from retention.vault.local import make_root, root_of

            make_root(root_of(url))
        case _:
            from retention.vault.s3 import ensure_bucket

            ensure_bucket(url, lock=lock, access_key=access_key, secret_key=secret_key)


def _scheme(url: str) -> str:
    parts = urlsplit(url)
    # A password in a URL must not come back in the message that refuses it.
    if "@" in parts.netloc:
        raise UsageError(
            f"the vault URL of scheme {parts.scheme!r} carries credentials; URLs reach reports and logs:"
            " take them out and give them as settings or in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if parts.scheme not in ("file", "s3"):
        raise UsageError(
            f"no vault has the scheme {parts.scheme!r}: expected file:///folder"
            " or s3://bucket/prefix?endpoint=…&region=…"
        )
    return parts.scheme

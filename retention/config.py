"""Settings: where the workspace is, and which services hold catalog and vault.

Rules of this module:
- Every setting has one source, the environment, and a default that works on a fresh machine; nothing
  secret is ever in a file that is not mode 600, in an argument list, or in `repr`.
- `MUNIMENT_DATABASE_URL` and `MUNIMENT_VAULT_URL` point at external services; without them the embedded ones
  of the workspace are used. Nothing else changes between the two.
- `MUNIMENT_BACKUPS` names the second vaults (`name=url`, several with spaces between them), where recovery points go;
  their credentials are variables of their own.
- `MUNIMENT_DATABASE_URL` is the application's role. `MUNIMENT_DATABASE_OWNER_URL` is the owner's, for migrations
  alone: it is wanted where one is still to be done, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from retention.errors import UsageError

VERSION = "0.1.0"


@dataclass(frozen=True, slots=True)
class BackupVault:
    """A second vault: another disk, bucket, region or account."""

    name: str
    url: str
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Settings:
    """What one process works with. URLs that may carry a password are kept out of `repr`."""

    root: Path  # the workspace folder
    database_url: str = field(repr=False)
    vault_url: str
    vault_access_key: str | None = field(default=None, repr=False)
    vault_secret_key: str | None = field(default=None, repr=False)
    agent: str = "muniment"
    database_owner_url: str | None = field(default=None, repr=False)  # for migrations alone
    backups: tuple[BackupVault, ...] = ()
    vault_threads: int = 8  # parallel puts; the object store, not the CPU, is waited for
    batch_documents: int = 500
    batch_bytes: int = 256 * 1024 * 1024

    @property
    def keys(self) -> Path:
        """The key safe and the root key. Back it up apart from everything else."""
        return self.root / "keys"

    @property
    def spool(self) -> Path:
        """Private copies of documents while a run works on them."""
        return self.root / "spool"

    @property
    def runs(self) -> Path:
        """Signed reconciliations, one folder a run."""
        return self.root / "runs"

    @property
    def reports(self) -> Path:
        return self.root / "reports"


def workspace(given: Path | None, environ: Mapping[str, str]) -> Path:
    """The workspace folder: `--workspace`, or MUNIMENT_WORKSPACE, or ./var; absolute."""
    return (given or Path(environ.get("MUNIMENT_WORKSPACE") or "var")).absolute()


def external(environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The URLs of external services, checked: (database, vault); None where the embedded one is meant."""
    database = environ.get("MUNIMENT_DATABASE_URL") or None
    vault = environ.get("MUNIMENT_VAULT_URL") or None
    if database and (wrong := _wrong_database(database)):
        raise UsageError(
            f"MUNIMENT_DATABASE_URL: expected postgresql://user:password@host:port/database, found {wrong}. "
            "Correct it, or unset it to use the embedded PostgreSQL."
        )
    if vault and _scheme(vault) not in ("s3", "file"):
        raise UsageError(
            f"MUNIMENT_VAULT_URL: expected s3://bucket/prefix or file:///folder, found a URL of scheme "
            f"{_scheme(vault)!r}. Correct it, or unset it to use the embedded S3."
        )
    return database, vault


def owner(environ: Mapping[str, str]) -> str | None:
    """The URL of the external database's owner, checked; None where it is not given."""
    found = environ.get("MUNIMENT_DATABASE_OWNER_URL") or None
    if found and (wrong := _wrong_database(found)):
        raise UsageError(
            f"MUNIMENT_DATABASE_OWNER_URL: expected postgresql://user:password@host:port/database, found {wrong}. "
            "Correct it, or unset it: it is wanted for migrations alone."
        )
    return found


def backups(environ: Mapping[str, str]) -> tuple[BackupVault, ...]:
    """The second vaults, checked, in the order of their names. Raises UsageError in words without any of their URLs:
    what lost its way may be a secret."""
    found: dict[str, BackupVault] = {}
    for number, given in enumerate((environ.get("MUNIMENT_BACKUPS") or "").split(), 1):
        name, _, url = given.partition("=")
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", name) or _scheme(url) not in ("s3", "file"):
            raise UsageError(
                f"MUNIMENT_BACKUPS, part {number}: expected name=file:///folder or name=s3://bucket/prefix, the name "
                "of a-z 0-9 - (the schedule file uses it), found something else. Correct it."
            )
        if name in found:
            raise UsageError(f"MUNIMENT_BACKUPS: expected each name once, found {name} twice. Name the vaults apart.")
        variable = f"MUNIMENT_BACKUP_{name.upper().replace('-', '_')}"
        access, secret = environ.get(f"{variable}_ACCESS_KEY_ID"), environ.get(f"{variable}_SECRET_ACCESS_KEY")
        if bool(access) != bool(secret):
            raise UsageError(
                f"{variable}_ACCESS_KEY_ID and {variable}_SECRET_ACCESS_KEY: expected both or none, found one. Without "
                "them boto3 looks where it does elsewhere."
            )
        found[name] = BackupVault(name, url, access or None, secret or None)
    return tuple(found[name] for name in sorted(found))


def _scheme(url: str) -> str:
    """The part before "://"; anything else may be a secret that lost its way."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
    return found[1].lower() if found else ""


def _wrong_database(url: str) -> str | None:
    """What is wrong with the URL of a database, if anything. The words hold no part of it that may be secret."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    if _scheme(url) not in ("postgresql", "postgres"):
        return f"a URL of scheme {_scheme(url)!r}"
    try:
        url.encode()
        found = conninfo_to_dict(url)
    except UnicodeEncodeError:
        return "one that is not UTF-8"
    except psycopg.Error:  # its text quotes the password
        return f"one that cannot be read: {_ENCODE}"
    host, port = str(found.get("host") or ""), str(found.get("port") or "")
    if "@" in host or "@" in url.partition("://")[2].partition("/")[2].partition("?")[0]:
        return f"an '@' after the name of the host: {_ENCODE}"
    if not all(not part or (_number(part) and 0 < int(part) < 65_536) for part in port.split(",")):
        return f"a port that is not a number from 1 to 65535, or {_ENCODE}"
    return None


_ENCODE = (
    "a character of user or password that must be written by its number ('%25' for '%', '%2F' for '/', '%40' for '@')"
)


def _number(text: str) -> bool:
    """True for ASCII digits alone: `isdigit` takes '²', which is no number to `int`."""
    return text.isascii() and text.isdecimal() and len(text) < 20


def integer(environ: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """A whole number from the environment, within bounds. Raises UsageError that names variable and bounds."""
    found = environ.get(name)
    if not found:
        return default
    if not _number(found) or not low <= int(found) <= high:
        raise UsageError(f"{name}: expected a whole number from {low} to {high}, found {found!r}.")
    return int(found)

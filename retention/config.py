"""Settings: where the workspace is, and which services hold catalog and vault.

Rules of this module:
- Every setting has one source, the environment, and a default that works on a fresh machine; nothing
  secret is ever in a file that is not mode 600, in an argument list, or in `repr`.
- `MUNIMENT_DATABASE_URL` and `MUNIMENT_VAULT_URL` point at external services; without them the embedded ones
  of the workspace are used. Nothing else changes between the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from retention.errors import UsageError

VERSION = "0.1.0"


@dataclass(frozen=True, slots=True)
class Settings:
    """What one process works with. URLs that may carry a password are kept out of `repr`."""

    root: Path  # the workspace folder
    database_url: str = field(repr=False)
    vault_url: str
    vault_access_key: str | None = field(default=None, repr=False)
    vault_secret_key: str | None = field(default=None, repr=False)
    agent: str = "muniment"
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
    if database and urlsplit(database).scheme not in ("postgresql", "postgres"):
        raise UsageError(
            f"MUNIMENT_DATABASE_URL: expected postgresql://user:password@host:port/database, found a URL of "
            f"scheme {urlsplit(database).scheme!r}. Correct it, or unset it to use the embedded PostgreSQL."
        )
    if vault and urlsplit(vault).scheme not in ("s3", "file"):
        raise UsageError(
            f"MUNIMENT_VAULT_URL: expected s3://bucket/prefix or file:///folder, found a URL of scheme "
            f"{urlsplit(vault).scheme!r}. Correct it, or unset it to use the embedded S3."
        )
    return database, vault


def integer(environ: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """A whole number from the environment, within bounds. Raises UsageError that names variable and bounds."""
    found = environ.get(name)
    if not found:
        return default
    if not found.isdigit() or not low <= int(found) <= high:
        raise UsageError(f"{name}: expected a whole number from {low} to {high}, found {found!r}.")
    return int(found)

"""What a workspace remembers of its services: ports, names and passwords, in `services.json`, mode 600.

Rules of this module:
- Ports and passwords are made once and written down before the service they belong to exists; a crash in
  between leaves a file that the next `up` goes on with.
- `initialised` says that a service holds data. What was initialised is never silently made anew: data that
  is gone is an error, not an empty database.
- Secrets are not shown in `repr`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from retention.embedded.processes import GRPC_OFFSET, free_ports, is_free, write_private
from retention.errors import UsageError

FILE = "services.json"


@dataclass(frozen=True, slots=True)
class Postgres:
    """The embedded PostgreSQL: one server, a database for Muniment with an owner, a role that works and one that
    reads, and a database for Airflow with a role of its own."""

    port: int
    superuser_password: str = field(repr=False)
    owner_password: str = field(repr=False)
    password: str = field(repr=False)
    auditor_password: str = field(repr=False)
    airflow_password: str = field(repr=False)
    superuser: str = "postgres"
    owner: str = "muniment_owner"
    user: str = "muniment"
    auditor: str = "auditor"
    database: str = "muniment"
    airflow_user: str = "airflow"
    airflow_database: str = "airflow"
    initialised: bool = False


@dataclass(frozen=True, slots=True)
class S3:
    """The embedded object store. Only `port` is for clients, and only that one is the same for ever: no data
    names the ports of the inner servers, so they move when another program has got one of them."""

    port: int
    master_port: int
    volume_port: int
    filer_port: int
    admin_port: int
    access_key: str
    secret_key: str = field(repr=False)
    bucket: str = "muniment"
    s3_grpc_port: int = 0  # 0: GRPC_OFFSET above `port`, as the inner servers have theirs
    initialised: bool = False

    @property
    def ports(self) -> tuple[int, ...]:
        return self.port, *self.inner_ports

    @property
    def inner_ports(self) -> tuple[int, ...]:
        return self.master_port, self.volume_port, self.filer_port, self.admin_port

    @property
    def grpc_ports(self) -> dict[str, int]:
        """By the name of the server; GRPC_OFFSET above its own port, but for S3, whose own port never moves."""
        inner = zip(("master", "volume", "filer", "admin"), self.inner_ports, strict=True)
        mine = self.s3_grpc_port or self.port + GRPC_OFFSET
        return {name: port + GRPC_OFFSET for name, port in inner} | {"s3": mine}


@dataclass(frozen=True, slots=True)
class Airflow:
    """Airflow of the workspace. `migrated`: the version and schema its database was last brought to;
    `settings`: a digest of what the running one was started with."""

    port: int
    password: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    secret_key: str = field(repr=False)
    fernet_key: str = field(repr=False)
    user: str = "admin"
    migrated: str = ""
    settings: str = ""


@dataclass(frozen=True, slots=True)
class Services:
    """The services of one workspace; None for one that was never started there."""

    root: Path
    postgres: Postgres | None = None
    s3: S3 | None = None
    airflow: Airflow | None = None

    @property
    def ports(self) -> tuple[int, ...]:
        """Every port that a service of the workspace calls its own."""
        single = tuple(service.port for service in (self.postgres, self.airflow) if service)
        return single + (self.s3.ports if self.s3 else ())

    @property
    def database_url(self) -> str:
        """libpq URL of the catalog as the application, with its password. Raises UsageError if there is no embedded
        one."""
        return self._database(lambda p: (p.user, p.password, p.database))

    @property
    def owner_url(self) -> str:
        """libpq URL of the catalog as its owner: for migrations, never for work."""
        return self._database(lambda p: (p.owner, p.owner_password, p.database))

    @property
    def auditor_url(self) -> str:
        """libpq URL of the catalog as an auditor, who reads."""
        return self._database(lambda p: (p.auditor, p.auditor_password, p.database))

    @property
    def superuser_url(self) -> str:
        """libpq URL of the catalog as the superuser: for making roles, backups, extensions; never for work."""
        return self._database(lambda p: (p.superuser, p.superuser_password, p.database))

    @property
    def airflow_database_url(self) -> str:
        """SQLAlchemy URL of Airflow's metadata; the driver is always spelled."""
        url = self._database(lambda p: (p.airflow_user, p.airflow_password, p.airflow_database))
        return url.replace("postgresql://", "postgresql+psycopg://", 1)

    @property
    def vault_url(self) -> str:
        """URL of the vault, without credentials."""
        s3 = self._s3()
        return f"s3://{s3.bucket}/vault?endpoint=http://127.0.0.1:{s3.port}"

    @property
    def access_key(self) -> str:
        return self._s3().access_key

    @property
    def secret_key(self) -> str:
        return self._s3().secret_key

    def _database(self, pick: Callable[[Postgres], tuple[str, str, str]]) -> str:
        if self.postgres is None:
            raise UsageError(f"{self.root}: no embedded PostgreSQL there yet. Run `muniment up` first.")
        user, password, database = pick(self.postgres)
        return f"postgresql://{user}:{password}@127.0.0.1:{self.postgres.port}/{database}"

    def _s3(self) -> S3:
        if self.s3 is None:
            raise UsageError(f"{self.root}: no embedded S3 there yet. Run `muniment up` first.")
        return self.s3


def load(root: Path) -> Services | None:
    """The services of the workspace, or None if none was ever started there. Reads one file, asks nobody."""
    path = root / FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Services(
            root=root,
            postgres=_read(Postgres, document, "postgres", path),
            s3=_read(S3, document, "s3", path),
            airflow=_read(Airflow, document, "airflow", path),
        )
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise UsageError(f"{path}: not readable by this user. Run as the user who made the workspace.") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}: expected what `muniment up` wrote, found something else ({error}). It holds the only "
            "copy of the passwords: restore it from a backup of the workspace, or correct it."
        ) from error


def save(services: Services) -> Services:
    """Write the file (mode 600, whole or not at all) and return what was written."""
    document = {
        "postgres": services.postgres and asdict(services.postgres),
        "s3": services.s3 and asdict(services.s3),
        "airflow": services.airflow and asdict(services.airflow),
    }
    write_private(services.root / FILE, json.dumps(document, indent=2) + "\n")
    return services


def with_postgres(services: Services) -> tuple[Services, Postgres]:
    """The services with PostgreSQL's port and passwords chosen and saved, if they were not yet."""
    if services.postgres is None:
        port = free_ports(1, services.ports)[0]
        fresh = Postgres(port, _password(), _password(), _password(), _password(), _password())
        services = save(replace(services, postgres=fresh))
    assert services.postgres is not None
    return services, services.postgres


def with_s3(services: Services) -> tuple[Services, S3]:
    """The services with the object store's ports and keys chosen and saved, if they were not yet."""
    if services.s3 is None:
        client, master, volume, filer, admin = free_ports(5, services.ports)
        access_key = f"MUNIMENT{secrets.token_hex(6).upper()}"
        fresh = S3(client, master, volume, filer, admin, access_key, _password())
        services = save(replace(services, s3=fresh))
    assert services.s3 is not None
    return services, services.s3


def with_free_inner_ports(services: Services, store: S3) -> tuple[Services, S3]:
    """The services with other inner ports for the object store, saved, if one of them is taken by now."""
    if not all(is_free(port) for port in (*store.inner_ports, *store.grpc_ports.values())):
        master, volume, filer, admin, grpc = free_ports(5, services.ports)
        store = replace(
            store, master_port=master, volume_port=volume, filer_port=filer, admin_port=admin, s3_grpc_port=grpc
        )
        services = save(replace(services, s3=store))
    return services, store


def _password() -> str:
    # URL-safe letters only, 256 bits: it stands in connection URLs without escaping.
    return secrets.token_urlsafe(32)


_State = TypeVar("_State", Postgres, S3, Airflow)


def _read(kind: type[_State], document: Any, name: str, path: Path) -> _State | None:
    values = document.get(name)
    if values is None:
        return None
    expected = {f.name: str(f.type) for f in fields(kind)}
    for key, value in values.items():
        if key in expected and type(value).__name__ != expected[key]:
            raise ValueError(f"{name}.{key}: expected {expected[key]}, found {type(value).__name__}")
    if kind is Postgres and "superuser_password" in values and "owner_password" not in values:
        raise UsageError(
            f"{path}: refusing to use this workspace: an earlier Muniment made it, with one role that owns "
            "the database and works in it. Nothing was changed. Stop its services with `muniment down` and use "
            "another workspace (or move this one away); read what is in it with the version that made it."
        )
    return kind(**values)

"""PostgreSQL, S3 and Airflow inside a workspace, for a machine that has nothing but Python.

Rules of this package:
- `up` and `down` may be run at any time, by anybody, twice, at the same moment: the second finds nothing to do.
- A service is up when it has answered a real question, and down when none of its processes is left.
- Killed at any point, with -9, nothing that was acknowledged is lost, and the next `up` goes on.
- `MUNIMENT_DATABASE_URL` and `MUNIMENT_VAULT_URL` mean a service elsewhere: it is then not started here.
  Airflow's metadata needs the embedded PostgreSQL unless Airflow's own setting names another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from retention.embedded import airflow as _airflow
from retention.embedded import postgres as _postgres
from retention.embedded import seaweedfs as _seaweedfs
from retention.embedded.processes import exclusive, marked
from retention.embedded.state import FILE, Services, load
from retention.errors import MunimentError

__all__ = ["FILE", "ServiceStatus", "Services", "State", "down", "load", "needed", "status", "up"]


class State(StrEnum):
    RUNNING = "running"  # answered a real question just now
    STOPPED = "stopped"
    UNHEALTHY = "unhealthy"  # a process is there, but no right answer
    EXTERNAL = "external"  # the environment names one elsewhere


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """How one service is. `port` and `pid` are None where there is none; `detail` is for people."""

    name: str
    version: str
    state: State
    port: int | None
    pid: int | None
    data: Path | None
    log: Path | None
    detail: str = ""


def needed(environ: Mapping[str, str], airflow: bool = False) -> tuple[bool, bool]:
    """Whether the embedded (PostgreSQL, S3) is wanted, given the environment and whether Airflow is."""
    metadata = airflow and not _airflow.external_metadata(environ)
    return not environ.get("MUNIMENT_DATABASE_URL") or metadata, not environ.get("MUNIMENT_VAULT_URL")


def up(
    root: Path,
    *,
    postgres: bool | None = None,
    s3: bool | None = None,
    airflow: bool = False,
    say: Callable[[str], None] = lambda _: None,
    environ: Mapping[str, str] = os.environ,
) -> Services:
    """Have the services running and answering; returns where they are. None means: as the environment says.

    Raises ServiceUnavailable (a port is taken, a service does not start) or UsageError, each with what to do."""
    wants_postgres, wants_s3 = needed(environ, airflow)
    with exclusive(root):
        services = load(root) or Services(root)
        if wants_postgres if postgres is None else postgres:
            services = _postgres.start(root, services, say)
        if wants_s3 if s3 is None else s3:
            services = _seaweedfs.start(root, services, say)
        if airflow:
            services = _airflow.start(root, services, say, environ)
    return services


def down(root: Path, *, say: Callable[[str], None] = lambda _: None) -> None:
    """Stop every service of the workspace, Airflow first; afterwards none of its processes is left."""
    if not root.exists():
        return
    with exclusive(root):
        for name, service in (("Airflow", _airflow), ("SeaweedFS", _seaweedfs), ("PostgreSQL", _postgres)):
            was = service.running(root)
            service.stop(root)
            if was:
                say(f"{name} stopped")


def status(root: Path, *, environ: Mapping[str, str] = os.environ) -> list[ServiceStatus]:
    """How each service is now; asks each that runs a real question. Changes nothing."""
    services = load(root) or Services(root)
    wants_postgres, wants_s3 = needed(environ)
    return [
        _postgres_status(root, services) if wants_postgres else _external("PostgreSQL", "MUNIMENT_DATABASE_URL"),
        _s3_status(root, services) if wants_s3 else _external("S3", "MUNIMENT_VAULT_URL"),
        _airflow_status(root, services),
    ]


def _external(name: str, variable: str) -> ServiceStatus:
    return ServiceStatus(name, "", State.EXTERNAL, None, None, None, None, f"{variable} names another")


def _answer(question: Callable[[], object]) -> tuple[State, str]:
    try:
        question()
    except MunimentError as error:
        return State.UNHEALTHY, str(error)
    return State.RUNNING, ""


def _postgres_status(root: Path, services: Services) -> ServiceStatus:
    server, daemon = services.postgres, _postgres.running(root)
    data, log = _postgres.data_folder(root), _postgres.log_file(root)
    if server is None or daemon is None:
        port = server.port if server else None
        return ServiceStatus("PostgreSQL", "", State.STOPPED, port, None, data, log)
    state, detail = _answer(lambda: _postgres.check(server))
    version = _postgres.version(server) if state is State.RUNNING else ""
    return ServiceStatus("PostgreSQL", version, state, server.port, daemon.pid, data, log, detail)


def _s3_status(root: Path, services: Services) -> ServiceStatus:
    store, daemon = services.s3, _seaweedfs.running(root)
    data, log = _seaweedfs.data_folder(root), _seaweedfs.log_file(root)
    if store is None or daemon is None:
        return ServiceStatus("S3", "", State.STOPPED, store.port if store else None, None, data, log)
    state, detail = _answer(lambda: _seaweedfs.check(store))
    return ServiceStatus("S3", f"SeaweedFS {_seaweedfs.version()}", state, store.port, daemon.pid, data, log, detail)


def _airflow_status(root: Path, services: Services) -> ServiceStatus:
    site, daemon = services.airflow, _airflow.running(root)
    data, log = _airflow.home(root), _airflow.log_file(root)
    if site is None or daemon is None:
        alive = len(marked(root, _airflow.SERVICE)) if site else 0
        state, detail = State.STOPPED, ""
        if alive:
            state, detail = State.UNHEALTHY, f"its manager is gone, {alive} of its processes live: `muniment down`"
        return ServiceStatus("Airflow", "", state, site.port if site else None, None, data, log, detail)
    state, detail = _answer(lambda: _airflow.check(site))
    return ServiceStatus("Airflow", _airflow.version(), state, site.port, daemon.pid, data, log, detail)

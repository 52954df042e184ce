"""Airflow 3.3 inside the workspace: scheduler, DAG processor, triggerer and API server under honcho.

Rules of this module:
- Settings travel in the environment, so that no secret stands in an argument list; the password of the one
  user stands in a file of mode 600, where Airflow's SimpleAuthManager looks for it.
- It listens on 127.0.0.1 only. Airflow's log servers, which would listen everywhere, are not started: the API
  server reads the same files.
- Every key that is set here exists in the installed Airflow (tests/unit/test_embedded_airflow.py). A setting
  that the caller's environment has (AIRFLOW__SECTION__KEY) wins over ours.
- It is healthy when every component has sent a heartbeat since this start.
- honcho ends all when one ends. When honcho itself is killed, its children live on, each in a session of its
  own: they are found by their mark, and stopped by the next `down` or `up`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import psycopg

from retention.embedded import postgres, processes, state
from retention.errors import MunimentError, ServiceUnavailable, UsageError

SERVICE = "airflow"
METADATA_SETTING = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
COMPONENTS = {
    "scheduler": "scheduler --skip-serve-logs",
    "dag-processor": "dag-processor",
    "triggerer": "triggerer --skip-serve-logs",
    "api-server": "api-server",
}
_START_SECONDS = 180.0

# What would bury the rest of the log: a line for each heartbeat and each look at a page, and a traceback for
# each look at the log of a task that runs (for the log server that is not there; the file is read all the same).
_LESS_SAID = (
    "http.access=WARNING",
    "airflow.models.dag=WARNING",
    "airflow.serialization.definitions.dag=WARNING",
    "airflow.utils.log.file_task_handler=CRITICAL",
)


def home(root: Path) -> Path:
    """AIRFLOW_HOME of the workspace."""
    return root.absolute() / "airflow"


def log_file(root: Path) -> Path:
    """What the four components print, each line with the component's name."""
    return home(root) / "airflow.log"


def password_file(root: Path) -> Path:
    return home(root) / "passwords.json"


def url(site: state.Airflow) -> str:
    """The address of the user interface."""
    return f"http://127.0.0.1:{site.port}"


def version() -> str:
    """The version of the installed Airflow, for example 3.3.2."""
    return metadata.version("apache-airflow-core")


def external_metadata(environ: Mapping[str, str]) -> bool:
    """True if the caller's environment names a metadata database of its own."""
    return bool(environ.get(METADATA_SETTING))


def environment(root: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The whole environment of an Airflow process (or of `airflow` on the command line) of this workspace.

    Raises UsageError if Airflow was not yet started there."""
    services = state.load(root)
    if services is None or services.airflow is None:
        raise UsageError(f"{root}: no Airflow there yet. Run `muniment up --airflow` first.")
    ours = _settings(root, services, services.airflow, external_metadata(environ))
    theirs = {name: value for name, value in environ.items() if name not in _REMOVED}
    kept = {name: value for name, value in theirs.items() if name.startswith("AIRFLOW__")}
    return {**theirs, **ours, **kept, **_process_variables(root)}


def start(
    root: Path,
    services: state.Services,
    say: Callable[[str], None],
    environ: Mapping[str, str] = os.environ,
) -> state.Services:
    """Have Airflow running, each component with a heartbeat; returns the state with its port.

    Nothing happens if it runs already with the same settings; with others it is started anew."""
    services, site = _with_airflow(services)
    daemon = running(root)
    if daemon and site.settings != _digest(environment(root, environ)):
        say("Airflow is started anew: its settings changed")
        stop(root)
        daemon = None
    if daemon:
        _wait_ready(root, site, daemon, None)  # an `up` that was killed may have started it a moment ago
        return services
    return _start_anew(root, services, site, say, environ)


def _start_anew(
    root: Path,
    services: state.Services,
    site: state.Airflow,
    say: Callable[[str], None],
    environ: Mapping[str, str],
) -> state.Services:
    _stop_leftovers(root)
    if not processes.is_free(site.port):
        site = replace(site, port=processes.free_ports(1, services.ports)[0])
        say(f"Airflow's port was taken by another program; it moves to {site.port}")
        services = state.save(replace(services, airflow=site))
    site = _migrate_if_needed(root, services, site, say, environ)
    _write_files(root, site)
    settings = environment(root, environ)
    services = state.save(replace(services, airflow=replace(site, settings=_digest(settings))))
    since = datetime.now(UTC)
    daemon = _launch(root, settings)
    try:
        _wait_ready(root, site, daemon, since)
    except MunimentError:
        stop(root)  # what did not come up is not left half running
        raise
    say(f"Airflow {version()} listens on {url(site)} (user {site.user}, password in {password_file(root)})")
    return services


def stop(root: Path) -> None:
    """Stop all components; tasks that run are ended. Afterwards no process of it is left."""
    family = processes.family(running(root))
    # The manager passes SIGTERM on and kills after 5 s what is left of the components; tasks outlive that.
    processes.end(family[:1], (signal.SIGTERM, 7.0), (signal.SIGKILL, 5.0))
    left = processes.end(family[1:], (signal.SIGTERM, 3.0), (signal.SIGKILL, 5.0))
    left += _stop_leftovers(root)
    if left:
        raise ServiceUnavailable(
            f"Airflow in {root}: process {left[0].pid} does not end, not even by SIGKILL. Look at it with `ps`, "
            "then run `muniment down` again."
        )
    _pid_file(root).unlink(missing_ok=True)


def running(root: Path) -> processes.Daemon | None:
    """The honcho manager of this workspace, if it is alive."""
    return processes.running(_pid_file(root))


def check(site: state.Airflow, since: datetime | None = None) -> None:
    """Ask Airflow for the health of its components. Raises ServiceUnavailable with those that are not well.

    With `since`, a heartbeat from before it does not count: it is of an earlier start."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url(site)}/api/v2/monitor/health", timeout=10) as answer:
            health = json.load(answer)
    except (OSError, ValueError) as error:
        raise ServiceUnavailable(
            f"Airflow at {url(site)} does not answer ({error}). Run `muniment down`, then `muniment up --airflow`."
        ) from error
    ill = _ill(health, since)
    if ill:
        raise ServiceUnavailable(
            f"Airflow at {url(site)}: no sign of life from {', '.join(ill)}. Run `muniment down`, then "
            "`muniment up --airflow`."
        )


def migrate(root: Path, environ: Mapping[str, str] = os.environ) -> None:
    """Bring the metadata database to the schema of the installed Airflow (`airflow db migrate`)."""
    home(root).mkdir(parents=True, exist_ok=True, mode=0o700)
    log = home(root) / "migrate.log"
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            cwd=home(root),
            env=environment(root, environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            umask=0o077,
            check=False,
        )
    if done.returncode:
        raise ServiceUnavailable(
            f"`airflow db migrate` failed (exit code {done.returncode}). The end of {log}:\n{processes.last_lines(log)}"
        )


def _ill(health: Mapping[str, Any], since: datetime | None) -> list[str]:
    """The components that are not healthy, or sent no heartbeat since."""
    ill = [] if health.get("metadatabase", {}).get("status") == "healthy" else ["metadatabase"]
    for name in ("scheduler", "dag_processor", "triggerer"):
        found = health.get(name) or {}
        beat = found.get(f"latest_{name}_heartbeat")
        late = since is not None and (not beat or datetime.fromisoformat(beat) < since)
        if found.get("status") != "healthy" or late:
            ill.append(name)
    return ill


# Of the caller's environment: another site's home and configuration, and what makes imports slow (without
# .pyc files `import airflow` takes twice as long in every process).
_REMOVED = frozenset({"AIRFLOW_HOME", "AIRFLOW_CONFIG", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME"})


def _process_variables(root: Path) -> dict[str, str]:
    return {
        "AIRFLOW_HOME": str(home(root)),
        "MUNIMENT_WORKSPACE": str(root.absolute()),
        "PYTHONPATH": str(_repository()),
        "PYTHONUNBUFFERED": "1",  # a line in the log when it happens
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
        "MALLOC_ARENA_MAX": "2",  # glibc's arenas cost the threaded API server memory and give nothing here
        "SPT_NOENV": "1",  # setproctitle leaves the environment readable, and the mark with it
        processes.MARK: processes.mark(root, SERVICE),
    }


def _settings(root: Path, services: state.Services, site: state.Airflow, external: bool) -> dict[str, str]:
    logs = home(root) / "logs"
    repository = _repository()
    options: dict[str, dict[str, str]] = {
        "core": {
            "dags_folder": str(repository / "dags"),
            "plugins_folder": str(repository / "plugins"),
            "load_examples": "False",
            "executor": "LocalExecutor",
            "parallelism": "4",  # 32, the default, fails tasks on two cores
            "dags_are_paused_at_creation": "False",  # a paused DAG is silent, and silence is failure
            "hostname_callable": "socket.gethostname",  # asks no name server
            "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "simple_auth_manager_users": f"{site.user}:admin",
            "simple_auth_manager_passwords_file": str(password_file(root)),
            "fernet_key": site.fernet_key,
            "execution_api_server_url": f"{url(site)}/execution/",
        },
        "logging": {
            "base_log_folder": str(logs),
            "dag_processor_child_process_log_directory": str(logs / "dag_processor"),
            "logging_level": "INFO",
            "uvicorn_logging_level": "WARNING",
            "namespace_levels": " ".join(_LESS_SAID),
        },
        "api": {
            "host": "127.0.0.1",
            "port": str(site.port),
            "base_url": url(site),
            "workers": "1",
            "secret_key": site.secret_key,
        },
        "api_auth": {"jwt_secret": site.jwt_secret},
        # A task that was killed is noticed after this many seconds, not after five minutes.
        "scheduler": {"task_instance_heartbeat_timeout": "90"},
        "dag_processor": {"refresh_interval": "30", "parsing_processes": "1"},
    }
    if not external:
        # The second is spelled because Airflow would derive asyncpg from the first, which is not installed.
        options["database"] = dict.fromkeys(
            ("sql_alchemy_conn", "sql_alchemy_conn_async"), services.airflow_database_url
        )
    return {
        f"AIRFLOW__{section.upper()}__{key.upper()}": value
        for section, keys in options.items()
        for key, value in keys.items()
    }


def _with_airflow(services: state.Services) -> tuple[state.Services, state.Airflow]:
    if services.airflow is None:
        fresh = state.Airflow(
            port=processes.free_ports(1, services.ports)[0],
            password=secrets.token_urlsafe(16),
            jwt_secret=secrets.token_urlsafe(64),
            secret_key=secrets.token_urlsafe(32),
            fernet_key=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        )
        services = state.save(replace(services, airflow=fresh))
    assert services.airflow is not None
    return services, services.airflow


def _migrate_if_needed(
    root: Path,
    services: state.Services,
    site: state.Airflow,
    say: Callable[[str], None],
    environ: Mapping[str, str],
) -> state.Airflow:
    """Migrate, unless the database has the schema that this version left there (a migration takes seconds)."""
    if external_metadata(environ):
        migrate(root, environ)
        return site
    if not site.migrated or site.migrated != _schema(services):
        say("Airflow's tables are brought up to date")
        migrate(root, environ)
        site = replace(site, migrated=_schema(services))
        state.save(replace(services, airflow=site))
    return site


def _schema(services: state.Services) -> str:
    """The installed version and the schema in the database; "" for the latter if it has none."""
    assert services.postgres is not None
    server = services.postgres
    try:
        with postgres.connect(
            server, server.airflow_database, server.airflow_user, server.airflow_password
        ) as connection:
            rows = connection.execute("SELECT version_num FROM alembic_version ORDER BY 1").fetchall()
    except psycopg.errors.UndefinedTable:
        rows = []
    return f"{version()} {' '.join(str(row[0]) for row in rows)}"


def _write_files(root: Path, site: state.Airflow) -> None:
    for folder in (home(root), home(root) / "logs"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    processes.write_private(password_file(root), json.dumps({site.user: site.password}) + "\n")
    python = shlex.quote(sys.executable)
    lines = [f"{name}: exec {python} -m airflow {command}\n" for name, command in COMPONENTS.items()]
    processes.write_private(home(root) / "Procfile", "".join(lines))


def _launch(root: Path, settings: Mapping[str, str]) -> processes.Daemon:
    return processes.launch(
        # -e names a file that is not there: an .env of the folder would change the settings unseen.
        [sys.executable, "-m", "honcho", "-f", "Procfile", "-e", "none.env", "start", "--no-colour"],
        pid_file=_pid_file(root),
        log=log_file(root),
        cwd=home(root),
        env=settings,
    )


def _stop_leftovers(root: Path) -> list[psutil.Process]:
    return processes.end(processes.marked(root, SERVICE), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


def _wait_ready(root: Path, site: state.Airflow, daemon: processes.Daemon, since: datetime | None) -> None:
    deadline = time.monotonic() + _START_SECONDS
    last = ""
    while time.monotonic() < deadline and processes.identity(daemon.pid) == daemon.identity:
        try:
            check(site, since)
            return
        except ServiceUnavailable as error:
            last = str(error)
        time.sleep(0.25)
    raise ServiceUnavailable(
        f"Airflow in {root} did not start ({last}). The end of {log_file(root)}:\n"
        f"{processes.last_lines(log_file(root), 20)}"
    )


def _digest(environment: Mapping[str, str]) -> str:
    """Which settings a running Airflow was started with: a change of one means a new start."""
    settings = sorted(
        (name, value) for name, value in environment.items() if name.startswith(("AIRFLOW__", "MUNIMENT_"))
    )
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


def _pid_file(root: Path) -> Path:
    return root / "run" / f"{SERVICE}.json"


def _repository() -> Path:
    """Where dags/ and plugins/ stand: beside the package, in the source tree. Raises UsageError elsewhere."""
    found = Path(__file__).resolve().parents[2]
    if not (found / "dags").is_dir():
        raise UsageError(
            f"{found}: no dags/ beside the installed package. The embedded Airflow runs from the source tree: "
            "clone the repository and use `make up` there."
        )
    return found

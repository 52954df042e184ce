"""The settings of the embedded Airflow, against the installed Airflow."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from retention.embedded import airflow, processes, state
from retention.errors import UsageError


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    services, _ = state.with_postgres(state.Services(tmp_path))
    airflow._with_airflow(services)
    return tmp_path


def known_options() -> dict[str, Any]:
    found = importlib.util.find_spec("airflow")
    assert found and found.origin
    description = yaml.safe_load((Path(found.origin).parent / "config_templates" / "config.yml").read_text())
    return {
        f"AIRFLOW__{section.upper()}__{key.upper()}": option
        for section, content in description.items()
        for key, option in (content.get("options") or {}).items()
    }


def test_every_setting_exists_in_the_installed_airflow(workspace: Path) -> None:
    settings = {name for name in airflow.environment(workspace, {}) if name.startswith("AIRFLOW__")}
    assert len(settings) > 20
    known = known_options()
    assert settings - set(known) == set()
    assert [name for name in settings if known[name].get("version_deprecated")] == []


def test_the_callers_setting_wins_and_another_sites_home_does_not(workspace: Path) -> None:
    environ = {
        "AIRFLOW__CORE__PARALLELISM": "9",
        "AIRFLOW_HOME": "/elsewhere",
        "AIRFLOW_CONFIG": "/elsewhere/airflow.cfg",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LANG": "C.UTF-8",
        processes.MARK: "something else",
    }
    found = airflow.environment(workspace, environ)
    assert found["AIRFLOW__CORE__PARALLELISM"] == "9"
    assert found["AIRFLOW_HOME"] == str(workspace / "airflow")
    assert found["LANG"] == "C.UTF-8"
    assert "AIRFLOW_CONFIG" not in found
    assert "PYTHONDONTWRITEBYTECODE" not in found
    assert found[processes.MARK] == processes.mark(workspace, "airflow")


def test_an_external_metadata_database_is_left_as_the_caller_said(workspace: Path) -> None:
    environ = {airflow.METADATA_SETTING: "postgresql+psycopg://there/metadata"}
    found = airflow.environment(workspace, environ)
    assert found[airflow.METADATA_SETTING] == environ[airflow.METADATA_SETTING]
    assert "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC" not in found


def test_it_listens_nowhere_but_on_loopback(workspace: Path) -> None:
    found = airflow.environment(workspace, {})
    assert found["AIRFLOW__API__HOST"] == "127.0.0.1"
    for command in ("scheduler", "triggerer"):
        assert "--skip-serve-logs" in airflow.COMPONENTS[command]


def test_no_secret_is_on_a_command_line(workspace: Path) -> None:
    services = state.load(workspace)
    assert services and services.airflow
    airflow._write_files(workspace, services.airflow)
    commands = (airflow.home(workspace) / "Procfile").read_text()
    assert commands.count("exec ") == 4
    for secret in (services.airflow.password, services.airflow.jwt_secret, services.airflow.fernet_key):
        assert secret not in commands
    assert airflow.password_file(workspace).stat().st_mode & 0o777 == 0o600


def test_the_environment_of_a_workspace_without_airflow_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="muniment up --airflow"):
        airflow.environment(tmp_path, {})


WELL = {
    "metadatabase": {"status": "healthy"},
    "scheduler": {"status": "healthy", "latest_scheduler_heartbeat": "2026-01-01T12:00:00+00:00"},
    "dag_processor": {"status": "healthy", "latest_dag_processor_heartbeat": "2026-01-01T12:00:00+00:00"},
    "triggerer": {"status": "healthy", "latest_triggerer_heartbeat": "2026-01-01T12:00:00+00:00"},
}
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "since", "ill"),
    [
        ({}, None, []),
        ({}, NOON, []),
        ({}, NOON.replace(minute=1), ["scheduler", "dag_processor", "triggerer"]),
        ({"metadatabase": {"status": "unhealthy"}}, None, ["metadatabase"]),
        ({"scheduler": {"status": "unhealthy", "latest_scheduler_heartbeat": None}}, None, ["scheduler"]),
        ({"triggerer": {"status": None, "latest_triggerer_heartbeat": None}}, NOON, ["triggerer"]),
        ({"dag_processor": None}, None, ["dag_processor"]),
    ],
)
def test_health_is_a_sign_of_life_of_each_component(
    change: dict[str, Any], since: datetime | None, ill: list[str]
) -> None:
    assert airflow._ill({**WELL, **change}, since) == ill

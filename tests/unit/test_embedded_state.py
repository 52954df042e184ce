"""What a workspace remembers: written once, kept private, never guessed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from retention import embedded
from retention.embedded import postgres, seaweedfs, state
from retention.errors import UsageError


def made(root: Path) -> state.Services:
    services, _ = state.with_postgres(state.Services(root))
    services, _ = state.with_s3(services)
    return services


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    services = made(tmp_path)
    assert state.load(tmp_path) == services
    assert (tmp_path / state.FILE).stat().st_mode & 0o777 == 0o600
    assert len(set(services.ports)) == 6


def test_ports_and_passwords_are_chosen_once(tmp_path: Path) -> None:
    services = made(tmp_path)
    again, _ = state.with_s3(state.with_postgres(services)[0])
    assert again == services


def test_urls_name_the_driver_and_keep_credentials_out_of_the_vault(tmp_path: Path) -> None:
    services = made(tmp_path)
    assert services.postgres and services.s3
    assert services.database_url == (
        f"postgresql://muniment:{services.postgres.password}@127.0.0.1:{services.postgres.port}/muniment"
    )
    assert services.airflow_database_url.startswith("postgresql+psycopg://airflow:")
    assert services.vault_url == f"s3://muniment/vault?endpoint=http://127.0.0.1:{services.s3.port}"
    assert services.access_key == services.s3.access_key


def test_no_secret_is_in_a_repr(tmp_path: Path) -> None:
    services = made(tmp_path)
    assert services.postgres and services.s3
    shown = repr(services)
    for secret in (
        services.postgres.password,
        services.postgres.superuser_password,
        services.postgres.owner_password,
        services.postgres.auditor_password,
        services.postgres.airflow_password,
        services.s3.secret_key,
    ):
        assert secret not in shown


def test_nothing_started_is_none_and_asking_for_a_url_says_what_to_do(tmp_path: Path) -> None:
    assert state.load(tmp_path) is None
    for ask in ("database_url", "owner_url", "auditor_url", "vault_url", "airflow_database_url", "access_key"):
        with pytest.raises(UsageError, match="muniment up"):
            getattr(state.Services(tmp_path), ask)


@pytest.mark.parametrize(
    "written",
    ["", "[1]", "{", '{"postgres": {"port": "5432"}}', '{"s3": {"port": 1}}', '{"airflow": 5}'],
)
def test_a_broken_file_is_named_and_not_replaced(tmp_path: Path, written: str) -> None:
    (tmp_path / state.FILE).write_text(written)
    with pytest.raises(UsageError, match=r"services\.json: expected what `muniment up` wrote"):
        embedded.up(tmp_path)
    assert (tmp_path / state.FILE).read_text() == written


def test_an_unknown_key_is_not_dropped_silently(tmp_path: Path) -> None:
    made(tmp_path)
    document = json.loads((tmp_path / state.FILE).read_text())
    document["postgres"]["prot"] = 1
    (tmp_path / state.FILE).write_text(json.dumps(document))
    with pytest.raises(UsageError, match="prot"):
        state.load(tmp_path)


def test_a_workspace_of_one_role_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    made(tmp_path)
    document = json.loads((tmp_path / state.FILE).read_text())
    for key in ("owner", "owner_password", "auditor", "auditor_password"):
        del document["postgres"][key]
    (tmp_path / state.FILE).write_text(written := json.dumps(document))
    with pytest.raises(
        UsageError, match=r"services\.json: refusing to use this workspace: an earlier Muniment made it"
    ):
        embedded.up(tmp_path)
    assert (tmp_path / state.FILE).read_text() == written


def test_data_that_is_gone_is_never_replaced_by_an_empty_service(tmp_path: Path) -> None:
    services = made(tmp_path)
    assert services.postgres and services.s3
    state.save(
        replace(
            services,
            postgres=replace(services.postgres, initialised=True),
            s3=replace(services.s3, initialised=True),
        )
    )
    with pytest.raises(UsageError, match="Refusing to start an empty one"):
        embedded.up(tmp_path, postgres=True, s3=False)
    with pytest.raises(UsageError, match="Refusing to start an empty store"):
        embedded.up(tmp_path, postgres=False, s3=True)
    assert not postgres.data_folder(tmp_path).exists()
    assert not seaweedfs.data_folder(tmp_path).exists()


@pytest.mark.parametrize(
    ("environ", "airflow", "wanted"),
    [
        ({}, False, (True, True)),
        ({}, True, (True, True)),
        ({"MUNIMENT_DATABASE_URL": "postgresql://elsewhere"}, False, (False, True)),
        ({"MUNIMENT_DATABASE_URL": "postgresql://elsewhere"}, True, (True, True)),
        (
            {
                "MUNIMENT_DATABASE_URL": "postgresql://elsewhere",
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql+psycopg://there",
            },
            True,
            (False, True),
        ),
        ({"MUNIMENT_VAULT_URL": "file:///vault"}, False, (True, False)),
        ({"MUNIMENT_DATABASE_URL": "", "MUNIMENT_VAULT_URL": ""}, False, (True, True)),
    ],
)
def test_a_service_elsewhere_is_not_started_here(
    environ: dict[str, str], airflow: bool, wanted: tuple[bool, bool]
) -> None:
    assert embedded.needed(environ, airflow) == wanted


def test_status_names_external_and_stopped_services_without_starting_any(tmp_path: Path) -> None:
    found = embedded.status(tmp_path, environ={"MUNIMENT_VAULT_URL": "file:///vault"})
    assert [(service.name, service.state) for service in found] == [
        ("PostgreSQL", embedded.State.STOPPED),
        ("S3", embedded.State.EXTERNAL),
        ("Airflow", embedded.State.STOPPED),
    ]
    assert list(tmp_path.iterdir()) == []

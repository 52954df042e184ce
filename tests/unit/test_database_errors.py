"""Errors of PostgreSQL reach the one who must act, by SQLSTATE; a defect stays a defect; no password is said."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from retention import database
from retention.config import external, integer
from retention.database import Connection, in_words, transaction, unavailable
from retention.embedded import Services
from retention.errors import MunimentError, ServiceUnavailable, UsageError


@pytest.fixture
def connections(database_url: str) -> Iterator[ConnectionPool[Connection]]:
    with database.pool(database_url, patience=5) as pool:
        yield pool


@pytest.mark.parametrize(
    ("error", "group", "words"),
    [
        (psycopg.errors.ConnectionFailure, ServiceUnavailable, "did not answer"),
        (psycopg.errors.AdminShutdown, ServiceUnavailable, "did not answer"),
        (psycopg.errors.CannotConnectNow, ServiceUnavailable, "did not answer"),
        (psycopg.errors.IoError, ServiceUnavailable, "did not answer"),
        (psycopg.errors.DiskFull, ServiceUnavailable, "has no room"),
        (psycopg.errors.TooManyConnections, ServiceUnavailable, "has no room"),
        (psycopg.errors.DeadlockDetected, ServiceUnavailable, "another process was in the way.*Run the same again"),
        (psycopg.errors.SerializationFailure, ServiceUnavailable, "another process was in the way"),
        (psycopg.errors.InvalidCatalogName, UsageError, "Create the database"),
        (psycopg.errors.InvalidPassword, UsageError, "Correct user and password"),
        (psycopg.errors.InsufficientPrivilege, UsageError, "Grant the user"),
        (psycopg.OperationalError, ServiceUnavailable, "did not answer"),
    ],
)
def test_each_state_is_for_the_one_who_must_act(
    connections: ConnectionPool[Connection], error: type[psycopg.Error], group: type[MunimentError], words: str
) -> None:
    with pytest.raises(group, match=words) as caught, transaction(connections):
        raise error("said\nDETAIL: a row of somebody")
    assert "a row" not in str(caught.value)


@pytest.mark.parametrize(
    "statement",
    ["SELECT 1/0", "SELECT nothing FROM nowhere", "SET LOCAL statement_timeout = 1; SELECT pg_sleep(5)"],
)
def test_a_defect_is_seen(connections: ConnectionPool[Connection], statement: Any) -> None:
    with pytest.raises(psycopg.Error) as caught, transaction(connections) as conn:
        conn.execute(statement)
    assert caught.value.sqlstate in ("22012", "42P01", "57014")


def test_a_real_deadlock(connections: ConnectionPool[Connection]) -> None:
    both, said = threading.Barrier(2, timeout=10), list[str]()

    def lock(first: int, second: int) -> None:
        try:
            with transaction(connections) as conn:
                conn.execute("SELECT pg_advisory_xact_lock(%s)", (first,))
                both.wait()
                conn.execute("SELECT pg_advisory_xact_lock(%s)", (second,))
        except ServiceUnavailable as error:
            said.append(str(error))

    threads = [threading.Thread(target=lock, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(said) == 1 and "another process was in the way (deadlock detected)" in said[0]


def test_a_connection_that_was_ended(connections: ConnectionPool[Connection], services: Services) -> None:
    with pytest.raises(ServiceUnavailable, match="did not answer"), transaction(connections) as conn:
        with psycopg.connect(services.superuser_url) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (conn.info.backend_pid,))
        conn.execute("SELECT 1")


def test_what_a_server_refuses_at_connecting(services: Services) -> None:
    parts = urlsplit(services.database_url)
    here = f"{parts.hostname}:{parts.port}"
    cases = {
        f"postgresql://{parts.username}:{parts.password}@{here}/not-there": "Create the database",
        f"postgresql://{parts.username}:WRONG@{here}/muniment": "Correct user and password",
        f"postgresql://nobody:WRONG@{here}/muniment": "Correct user and password",
        f"{services.database_url}?sslmode=perhaps": "Correct the parameters",
    }
    for url, words in cases.items():
        with pytest.raises(UsageError, match=words) as caught:
            database.migrate(url)
        assert "WRONG" not in str(caught.value) and str(parts.password) not in str(caught.value)
        with (
            database.pool(url, patience=1) as pool,
            pytest.raises(UsageError, match=words),
            transaction(pool),
        ):
            pass


def test_a_pool_without_a_free_connection_is_not_a_server_that_is_gone(database_url: str) -> None:
    with (
        database.pool(database_url, size=1, patience=0.2) as pool,
        transaction(pool),
        pytest.raises(ServiceUnavailable, match="couldn't get a connection after"),
        transaction(pool),
    ):
        pass


def test_an_older_server_is_refused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(database_url) as conn:
        found = conn.info.server_version // 10_000
    assert found >= database.OLDEST
    monkeypatch.setattr(database, "OLDEST", found + 1)
    with pytest.raises(UsageError, match=rf"expected PostgreSQL {found + 1} or newer, found {found}\."):
        database.migrate(database_url)


WRONG_URLS = [
    "postgresql://u:p%zzSECRET@localhost/db",
    "postgresql://u:pa/SECRET@localhost:5432/db",
    "postgresql://u:12/SECRET@localhost:5432/db",
    "postgresql://u:p@SECRET@localhost/db",
    "postgresql://u:SECRET@localhost:abc/db",
    "postgresql://u:SECRET@localhost:99999/db",
    "postgresql://u:SECRET@localhost/db?port=²",
    "postgresql://u:SEC RET@localhost/db",
    "postgresql://u:SECRET@[::1/db",
    "postgresql://u:SECRET@localhost/\udcff",
    "SECRET:x@localhost/db",
    "mysql://u:SECRET@localhost/db",
]


@pytest.mark.parametrize("url", WRONG_URLS)
def test_a_wrong_url_is_named_and_never_repeated(url: str) -> None:
    with pytest.raises(UsageError, match=r"^MUNIMENT_DATABASE_URL: expected postgresql://") as caught:
        external({"MUNIMENT_DATABASE_URL": url})
    assert "SEC" not in str(caught.value).upper() and caught.value.__context__ is None


@pytest.mark.parametrize("url", WRONG_URLS)
def test_no_url_breaks_a_message(url: str) -> None:
    told = [unavailable(url, OSError("x")), in_words(url, psycopg.OperationalError("x"))]
    assert all(isinstance(one, ServiceUnavailable) for one in told)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%40%2F%25@localhost:5432/db?sslmode=require",
        "postgres://u@h1:1,h2/db",
        "postgresql://u:pa?SECRET@localhost:5432/db",
        "postgresql:///db?host=/tmp",
        "postgresql://[::1]:5433/db",
    ],
)
def test_a_right_url_is_taken_as_it_is(url: str) -> None:
    assert external({"MUNIMENT_DATABASE_URL": url}) == (url, None)
    assert "SECRET" not in str(unavailable(url, OSError("x")))


@pytest.mark.parametrize("url", ["s3:x", "[::1", "ftp://[::1/x", "SECRET"])
def test_a_wrong_vault_is_named_and_never_repeated(url: str) -> None:
    with pytest.raises(UsageError, match=r"^MUNIMENT_VAULT_URL: expected") as caught:
        external({"MUNIMENT_VAULT_URL": url})
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("text", ["²", "٣", "1.5", "-1", "0", "257", "9" * 5000, "x"])
def test_a_setting_that_is_no_number_in_bounds(text: str) -> None:
    with pytest.raises(UsageError, match="^THREADS: expected a whole number from 1 to 256"):
        integer({"THREADS": text}, "THREADS", 8, 1, 256)
    assert integer({"THREADS": "12"}, "THREADS", 8, 1, 256) == 12

"""Who may do what in PostgreSQL: the application cannot rewrite history, an auditor reads what is open to her."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from retention import auditors, database, policy
from retention.archive import Archive, open_archive
from retention.config import Settings
from retention.database import Connection, transaction
from retention.embedded import Services
from retention.errors import Refused, UsageError
from retention.verification import tables
from tests.deposits import Doc, deposit
from tests.owning import owning

Clock = Callable[[], datetime]

HISTORY = ("events", "event_subjects", "schedule_versions", "signatures", "ledger_keys", "ledger_checkpoints")
# What no auditor reads: words of people, keyed digests of documents, keys, requests of persons.
HIDDEN = {
    *("belongs_to", "descriptions", "descriptions_complete", "hold_quarantined", "queries", "requests", "sightings"),
    "subject_keys",
}
NOT_ALLOWED = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.WrongObjectType,
    psycopg.errors.ObjectNotInPrerequisiteState,  # a view that nobody could write to
)
SCHEDULE = """version: 1
title: T
timezone: UTC
classes:
  - id: LETTER
    title: Letters
    rules: [{id: letter, trigger: received, period: P6Y, authority: {citation: L}}]
  - id: PERSON
    title: Files of people
    personal_data: true
    rules: [{id: person, trigger: received, period: P6Y, authority: {citation: L}}]
"""


def refused(conn: Connection, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege), conn.transaction():
        conn.execute(statement.encode())


@pytest.fixture
def auditor(services: Services, settings: Settings) -> Iterator[Connection]:
    with psycopg.connect(beside(settings.database_url, services.auditor_url)) as conn:
        yield conn


def beside(url: str, role: str) -> str:
    """The database of `url`, as the role of the other."""
    return role.rpartition("/")[0] + "/" + url.rpartition("/")[2]


# ---------------------------------------------------------------- the application


def test_only_the_owner_opens_a_class_and_only_to_auditors(archive: Archive, clock: Clock) -> None:
    deposit(archive, Doc("a letter"))
    with transaction(archive.connections) as conn:
        ((known,),) = conn.execute("SELECT class_id FROM classes LIMIT 1").fetchall()
    without = replace(archive, settings=replace(archive.settings, database_owner_url=None))
    with pytest.raises(UsageError, match="MUNIMENT_DATABASE_OWNER_URL"):
        auditors.open_class(without, "auditor", known, clock())
    with pytest.raises(UsageError, match="no record ever had it"):
        auditors.open_class(archive, "auditor", "NEVER", clock())
    for role, found in (("muniment_application", "another role"), ("nobody at all", "none of that name")):
        with pytest.raises(UsageError, match=found):
            auditors.open_class(archive, role, known, clock())
    assert auditors.opened(archive) == []


def test_these_tables_are_the_history(archive: Archive) -> None:
    with transaction(archive.connections) as conn:
        rows = conn.execute("SELECT relname FROM pg_class c JOIN pg_trigger t ON t.tgrelid = c.oid "
                            "WHERE tgfoid = 'history_is_append_only'::regproc")  # fmt: skip
        assert {row[0] for row in rows} == set(HISTORY)


@pytest.mark.parametrize("table", HISTORY)
def test_the_application_cannot_change_history(archive: Archive, table: str) -> None:
    with transaction(archive.connections) as conn:
        column = conn.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum = 2", (table,)
        ).fetchone()
        assert column is not None
        for statement in (
            f"UPDATE {table} SET {column[0]} = {column[0]}",
            f"DELETE FROM {table}",
            f"TRUNCATE {table} CASCADE",
            f"DROP TABLE {table} CASCADE",
            f"ALTER TABLE {table} DISABLE TRIGGER {table}_append_only",
            f"ALTER TABLE {table} DISABLE TRIGGER ALL",
            f"ALTER TABLE {table} OWNER TO CURRENT_USER",
            f"ALTER TABLE {table} ADD COLUMN more text",
            f"DROP TRIGGER {table}_append_only ON {table}",
            f"CREATE TRIGGER mine BEFORE INSERT ON {table} EXECUTE FUNCTION history_is_append_only()",
            f"CREATE RULE mine AS ON INSERT TO {table} DO INSTEAD NOTHING",
            f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE",
        ):
            refused(conn, statement)


def test_the_application_cannot_become_another(archive: Archive) -> None:
    with transaction(archive.connections) as conn:
        for statement in (
            "SET ROLE muniment_owner",
            "SET SESSION AUTHORIZATION muniment_owner",
            "SET session_replication_role = replica",
            "CREATE TABLE public.mine (x integer)",
            "CREATE SCHEMA mine",
            "DROP SCHEMA public CASCADE",
            "DROP SCHEMA audit CASCADE",
            "CREATE OR REPLACE FUNCTION history_is_append_only() RETURNS trigger LANGUAGE sql AS 'SELECT 1'",
            "CREATE ROLE mine",
            "GRANT muniment_owner TO CURRENT_USER",
            "COPY events TO '/tmp/events'",
            "INSERT INTO auditor_classes (auditor, class_id) VALUES ('auditor', 'PERSON')",
            "INSERT INTO schema_migrations (number, name, sha256) VALUES (99, 'x', '')",
        ):
            refused(conn, statement)


def test_every_table_has_a_decided_right_and_the_application_no_more_than_its_code_needs(archive: Archive) -> None:
    of_owner = {"auditors.py"}
    sources = [path for path in Path(database.__file__).parent.rglob("*.py") if path.name not in of_owner]
    code = "\n".join(path.read_text() for path in sources)
    named = {"descriptions"}  # its statement has the table as an argument (retention.descriptors.describe)
    needs: dict[str, Callable[[str], re.Match[str] | None]] = {
        "INSERT": lambda table: re.search(rf"(INSERT INTO|COPY) {table}\b", code),
        "DELETE": lambda table: re.search(rf"DELETE FROM {table}\b", code),
        "MAINTAIN": lambda table: re.search(rf"CLUSTER {table}\b", code),
        "UPDATE": lambda table: re.search(
            rf"\bUPDATE {table}\b|INSERT INTO {table}\b(?:(?!INSERT INTO).){{0,900}}?DO UPDATE", code, re.DOTALL
        ),
    }
    with owning(archive) as conn:
        tables = {
            table: (set(own or ()), bool(auditors), bool(view))
            for table, own, auditors, view in conn.execute(
                """SELECT c.relname, (SELECT array_agg(a.privilege_type) FROM aclexplode(c.relacl) a
                                       WHERE a.grantee = 'muniment_application'::regrole),
                          has_any_column_privilege('muniment_auditor', c.oid, 'SELECT'),
                          to_regclass('audit.' || quote_ident(c.relname))
                     FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace"""
            )
        }
        columns = conn.execute(
            """SELECT c.relname, t.attname, a.privilege_type FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid,
                      aclexplode(t.attacl) a WHERE a.grantee = 'muniment_application'::regrole"""
        ).fetchall()
        rules = conn.execute("SELECT relname FROM pg_class WHERE relrowsecurity").fetchall()
    assert len(tables) > 40
    for table, (own, auditor, view) in tables.items():
        assert "SELECT" in own, f"sql/: say what the application may do with {table}"
        assert own <= needs.keys() | {"SELECT"}, table
        for right in own - {"SELECT"}:
            assert table in named or needs[right](table), f"nothing in the code needs {right} on {table}"
        ways = {"granted": auditor, "view": view, "hidden": table in HIDDEN}
        decided = [name for name, known in ways.items() if known]
        assert len(decided) == 1, f"say in sql/ what an auditor reads of {table}: {decided}"
    assert {table for table in HISTORY if tables[table][0] != {"SELECT", "INSERT"}} == set()
    assert set(columns) <= {
        ("aggregations", "aggregation_id", "UPDATE"),  # for a row's lock
        ("subject_keys", "subject_id", "UPDATE"),  # the same
        ("key_buckets", "bucket_id", "UPDATE"),  # the same
        ("subject_keys", "bucket_id", "UPDATE"),  # wrapped anew
        ("subject_keys", "wrapped", "UPDATE"),
        ("contents", "verified_at", "UPDATE"),
        ("contents", "version", "UPDATE"),  # healed
        ("descriptors", "version", "UPDATE"),  # the same
        ("pseudonyms", "kind", "UPDATE"),  # a name that was in no copy, used again
        ("pseudonyms", "sealed_name", "UPDATE"),
    }
    assert rules == []  # COPY FROM would be refused to the application


# ---------------------------------------------------------------- opening


def test_a_role_that_could_rewrite_history_is_refused(services: Services, settings: Settings, archive: Archive) -> None:
    name = f"climber_{uuid4().hex[:8]}"
    url = urlsplit(settings.database_url)
    climber = f"postgresql://{name}:secret@{url.hostname}:{url.port}{url.path}"
    try:
        with psycopg.connect(services.superuser_url, autocommit=True) as conn:
            quoted = sql.Identifier(name)
            conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret' IN ROLE muniment_application").format(quoted))
            with open_archive(replace(settings, database_url=climber), datetime.now(UTC)):
                pass
            steps = (
                ("GRANT muniment_owner TO {}", "REVOKE muniment_owner FROM {}", "muniment_owner"),
                ("GRANT pg_write_all_data TO {}", "REVOKE pg_write_all_data FROM {}", "pg_write_all_data"),
                (
                    "GRANT pg_execute_server_program TO {}",
                    "REVOKE pg_execute_server_program FROM {}",
                    "pg_execute_server_program",
                ),
                ("ALTER ROLE {} SUPERUSER", "ALTER ROLE {} NOSUPERUSER", name),
            )
            for give, take, words in steps:
                conn.execute(sql.SQL(give).format(quoted))
                with (
                    pytest.raises(Refused, match=f"^refusing to work .* as {name}: .*{words}") as caught,
                    open_archive(replace(settings, database_url=climber), datetime.now(UTC)),
                ):
                    pass
                assert "secret" not in str(caught.value)
                conn.execute(sql.SQL(take).format(quoted))
    finally:
        with psycopg.connect(services.superuser_url, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))
    assert settings.database_owner_url
    with pytest.raises(Refused, match=r"^refusing to work .* as muniment_owner: .* MUNIMENT_DATABASE_OWNER_URL"):
        database.prepare(settings.database_owner_url, settings.database_owner_url)


def test_the_owner_is_wanted_where_a_migration_is_still_to_be_done(
    services: Services, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.prepare(settings.database_url, None)  # nothing is to be done
    monkeypatch.setattr(database, "migrate", lambda _: pytest.fail("the owner is not needed"))
    database.prepare(settings.database_url, settings.database_owner_url)
    monkeypatch.undo()
    name = f"new_{uuid4().hex}"
    url, owner = (f"{role.rpartition('/')[0]}/{name}" for role in (services.database_url, services.owner_url))
    with psycopg.connect(services.superuser_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} OWNER muniment_owner")
        try:
            with pytest.raises(Refused, match=r"^refusing to migrate .*Set MUNIMENT_DATABASE_OWNER_URL once"):
                database.prepare(url, None)
            with pytest.raises(UsageError, match="must name the same database"):
                database.prepare(url, settings.database_owner_url)
            database.prepare(url, owner)
            database.prepare(url, None)
            with psycopg.connect(owner) as owning_it:
                owning_it.execute("DELETE FROM schema_migrations WHERE number = 4")
            with pytest.raises(Refused, match=r"^refusing to migrate"):
                database.prepare(url, None)
        finally:
            conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def new_roles(services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """An empty database, and a name for the application's group that no role has yet."""
    role, name = f"application_{uuid4().hex[:8]}", f"new_{uuid4().hex}"
    files = [(n, file, text.replace("muniment_application", role)) for n, file, text in database.migrations()]
    monkeypatch.setattr(database, "migrations", lambda: files)
    with psycopg.connect(services.superuser_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} OWNER muniment_owner")
        yield name, role
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
        conn.execute(f"DROP ROLE IF EXISTS {role}")


def test_an_owner_who_may_not_make_roles_says_what_to_run(services: Services, new_roles: tuple[str, str]) -> None:
    name, role = new_roles
    with pytest.raises(UsageError, match=f"role {role} is missing.*\nCREATE ROLE {role} NOLOGIN"):
        database.migrate(f"{services.owner_url.rpartition('/')[0]}/{name}")
    with psycopg.connect(services.superuser_url, autocommit=True) as conn:
        conn.execute(f"CREATE ROLE {role} NOLOGIN")
    assert database.migrate(f"{services.owner_url.rpartition('/')[0]}/{name}")[-1] == database.migrations()[-1][1]


def test_two_databases_that_make_the_roles_at_once(services: Services, new_roles: tuple[str, str]) -> None:
    name, role = new_roles
    done: list[object] = []

    def migrate() -> None:
        try:
            done.extend(database.migrate(f"{services.superuser_url.rpartition('/')[0]}/{name}"))
        except Exception as error:
            done.append(error)

    with psycopg.connect(services.superuser_url) as first, psycopg.connect(services.superuser_url) as looking:
        looking.autocommit = True
        first.execute(f"CREATE ROLE {role} NOLOGIN")  # of another database, not yet committed
        other = threading.Thread(target=migrate)
        other.start()
        deadline = time.monotonic() + 20
        waits = "SELECT FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
        while looking.execute(waits.encode(), (name,)).fetchone() is None:
            assert time.monotonic() < deadline and other.is_alive(), done
            time.sleep(0.02)
        first.commit()
        other.join(20)
    assert done[-1] == database.migrations()[-1][1]


# ---------------------------------------------------------------- the auditor


def test_an_auditor_writes_nothing(auditor: Connection, archive: Archive) -> None:
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), auditor.transaction():
        auditor.execute("CREATE TABLE mine (x integer)")
    auditor.rollback()
    auditor.read_only = False
    tables = [
        f"{schema}.{name}"
        for schema, name in auditor.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = 'public' "
            "UNION ALL SELECT schemaname, viewname FROM pg_views WHERE schemaname = 'audit'"
        )
    ]
    auditor.commit()
    auditor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")
    auditor.commit()
    assert len(tables) > 60
    for table in tables:
        for statement in (f"INSERT INTO {table} DEFAULT VALUES", f"DELETE FROM {table}", f"DROP TABLE {table}"):
            with pytest.raises(NOT_ALLOWED):
                auditor.execute(statement.encode())
            auditor.rollback()
    for statement in (
        "SET ROLE muniment_application",
        "SET ROLE muniment_owner",
        "CREATE TABLE public.mine (x integer)",
    ):
        refused(auditor, statement)


def test_an_auditor_reads_no_key_and_no_word_of_a_person(auditor: Connection, archive: Archive) -> None:
    for table in HIDDEN:
        refused(auditor, f"SELECT count(*) FROM public.{table}")
    refused(auditor, "SELECT sealed_name FROM public.pseudonyms")
    refused(auditor, "SELECT count(*) FROM public.records")
    assert auditor.execute("SELECT count(*) FROM pseudonyms").fetchone() == (2,)


@pytest.fixture
def filed(archive: Archive, clock: Clock) -> dict[str, UUID]:
    """Records of an open and of a closed class, alone and together in a case file."""
    policy.load(archive, SCHEDULE, "tests", clock())
    names = {
        "letter": "LETTER",
        "letter of a file": "LETTER",
        "labelled": "LETTER",
        "mixed": "LETTER",
        "file": "PERSON",
    }
    ids = dict(zip(names, deposit(archive, *(Doc(n, class_id=c) for n, c in names.items())), strict=True))
    with owning(archive) as conn:
        person = "(SELECT class_key FROM classes WHERE class_id = 'PERSON')"
        conn.execute(f"INSERT INTO record_labels VALUES (%s, {person}, now())".encode(), (ids["labelled"],))
        for name, members in (("open case", ["letter of a file"]), ("closed case", ["mixed", "file"])):
            ids[name] = uuid4()
            conn.execute("INSERT INTO aggregations VALUES (%s, now(), 'case')", (ids[name],))
            conn.execute("INSERT INTO current_triggers VALUES (%s, '{}')", (ids[name],))
            for member in members:
                conn.execute("UPDATE records SET aggregation_id = %s WHERE record_id = %s", (ids[name], ids[member]))
        hold = uuid4()
        conn.execute("INSERT INTO holds VALUES (%s, now(), %s, NULL, 'static', '2030-01-01')", (hold, uuid4()))
        conn.execute("INSERT INTO hold_members SELECT record_id, %s, now() FROM records", (hold,))
    return ids


def seen(auditor: Connection, ids: dict[str, UUID], view: str, column: str) -> set[str]:
    found = {row[0] for row in auditor.execute(f"SELECT {column} FROM {view}".encode())}
    auditor.rollback()
    return {name for name, one in ids.items() if one in found}


def test_an_auditor_sees_single_records_of_open_classes_alone(auditor: Connection, filed: dict[str, UUID]) -> None:
    records = {"letter", "letter of a file", "mixed"}
    for view in ("records", "contents", "hold_members"):
        assert seen(auditor, filed, view, "record_id") == records, view
    assert seen(auditor, filed, "aggregations", "aggregation_id") == {"open case"}
    assert seen(auditor, filed, "current_triggers", "subject_id") == {"open case"}
    for view in ("descriptor_lines", "run_items"):
        assert seen(auditor, filed, view, "subject_id") == records, view
    # every view that tells of single subjects is held back by the same two
    rows = auditor.execute(
        "SELECT c.relname, pg_get_viewdef(c.oid), 'security_barrier=true' = ANY(c.reloptions) FROM pg_class c "
        "WHERE c.relkind = 'v' AND c.relnamespace = 'audit'::regnamespace"
    ).fetchall()
    assert len(rows) > 20
    for view, definition, barrier in rows:
        assert barrier, view
        if view not in ("open_classes", "proposals", "records"):
            assert re.search(r"FROM (audit\.)?(records|subjects)\b", definition), view


def test_a_class_is_granted_to_one_auditor_or_to_all(
    auditor: Connection, archive: Archive, filed: dict[str, UUID], clock: Clock
) -> None:
    everything = {name for name in filed if "case" not in name}
    for who, whole in (("somebody", False), ("auditor", True), ("muniment_auditor", True)):
        with owning(archive) as conn:
            conn.execute("DELETE FROM auditor_classes")
            conn.execute("INSERT INTO auditor_classes (auditor, class_id) VALUES (%s, 'PERSON')", (who,))
        assert (seen(auditor, filed, "records", "record_id") == everything) is whole, who
    with owning(archive) as conn:
        conn.execute("DELETE FROM auditor_classes")
    assert seen(auditor, filed, "records", "record_id") == {"letter", "letter of a file", "mixed"}

    def wrong() -> list[str]:
        with transaction(archive.connections) as conn:
            tables.tell_history(conn, [])
            return [f"{row}: {said}" for row, said in auditors.check(conn, archive)]

    assert auditors.open_class(archive, "auditor", "PERSON", clock())
    assert not auditors.open_class(archive, "auditor", "PERSON", clock())  # it is
    assert seen(auditor, filed, "records", "record_id") == everything and wrong() == []
    for past_the_history, said in (
        ("DELETE FROM auditor_classes", "missing"),
        ("UPDATE auditor_classes SET granted_at = granted_at + interval '1 second'", "its event says"),
        ("INSERT INTO auditor_classes (auditor, class_id) VALUES ('muniment_auditor', 'PERSON')", "no event opened it"),
    ):
        with owning(archive) as conn:
            before = conn.execute("SELECT * FROM auditor_classes").fetchall()
            conn.execute(past_the_history.encode())
        assert [said in one for one in wrong()] == [True], past_the_history
        with owning(archive) as conn:
            conn.execute("DELETE FROM auditor_classes")
            conn.cursor().executemany("INSERT INTO auditor_classes VALUES (%s, %s, %s)", before)
    assert auditors.close_class(archive, "auditor", "PERSON", clock())
    assert not auditors.close_class(archive, "auditor", "PERSON", clock()) and wrong() == []
    assert seen(auditor, filed, "records", "record_id") == {"letter", "letter of a file", "mixed"}
    # the schedule in force decides, and what it does not know is closed
    with owning(archive) as conn:
        conn.execute("UPDATE classes SET class_id = 'GONE' WHERE class_id = 'LETTER'")
    assert seen(auditor, filed, "records", "record_id") == set()

"""The probe of the store, as the report and the history tell it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from retention import probing, reports
from retention.archive import Archive, open_archive
from retention.cli import app
from retention.config import Settings
from retention.reports.model import Status
from retention.vault.s3_probe import ATTEMPTS
from retention.verification import verify

Clock = Callable[[], datetime]
WHOLE: dict[str, str | None] = {"delete": None, "shorten": None, "bypass": None}


@pytest.fixture
def ready(settings: Settings, clock: Clock) -> Iterator[Archive]:
    with open_archive(settings, clock()) as archive:
        yield archive


def probed(archive: Archive, found: dict[str, str | None], now: datetime, url: str = "") -> probing.Probed:
    store: Any = SimpleNamespace(probe=lambda: found, url=url or archive.vault.url)
    return probing.probe(replace(archive, vault=store), now)


def said(archive: Archive, now: datetime) -> tuple[Status, str] | None:
    report = reports.compile_report(archive, now.date(), now)
    return next(((one.status, one.found) for one in report.checks if one.id == "store"), None)


def test_the_report_says_what_locks_are_worth(ready: Archive, clock: Clock) -> None:
    probed(ready, WHOLE, now := clock())
    assert said(ready, now) == (Status.GREEN, f"On {now:%Y-%m-%d %H:%M} UTC it withstood 3 of 3 attempts.")
    assert said(ready, now + timedelta(days=30)) is not None
    status, words = said(ready, now + timedelta(days=31)) or (None, "")
    assert status is Status.RED and "Not probed for 31 days" in words  # silence is failure
    now = clock()
    assert probed(ready, WHOLE | {"bypass": "it is gone"}, now).failed == []
    status, words = said(ready, now) or (None, "")
    assert status is Status.AMBER and "2 of 3" in words and "governance" in words
    now = clock()
    assert probed(ready, WHOLE | {"shorten": "its lock was"}, now).failed == ["shorten"]
    status, words = said(ready, now) or (None, "")
    assert status is Status.RED and "did not withstand: shorten." in words
    probed(ready, {}, now := clock())
    status, words = said(ready, now) or (None, "")
    assert status is Status.GREEN and "cannot lock" in words
    assert [one.path for one in verify(ready).problems] == ["vault ledger"]  # no key was made


def test_what_another_vault_withstood_says_nothing_of_the_one_in_use(ready: Archive, clock: Clock) -> None:
    probed(ready, WHOLE | {"shorten": "its lock was"}, began := clock())
    probed(ready, WHOLE, clock(), "s3://another")  # newer, and of another
    status, words = said(ready, began + timedelta(hours=1)) or (None, "")
    assert status is Status.RED and "did not withstand: shorten." in words
    probed(ready, WHOLE, later := began + timedelta(hours=1))
    probed(ready, WHOLE | {"delete": "it is gone"}, later, "s3://another")
    assert (said(ready, later) or (None,))[0] is Status.GREEN


def test_a_vault_in_use_that_was_never_probed_is_not_vouched_for_by_another(ready: Archive, clock: Clock) -> None:
    probed(ready, WHOLE, now := clock(), "s3://another")
    assert (said(ready, now + timedelta(days=2)) or (None, ""))[0] is Status.AMBER
    status, words = said(ready, now + timedelta(days=31)) or (None, "")
    assert status is Status.RED and "Not probed for 31 days" in words


def test_a_store_that_was_never_probed_waits_for_its_first_night(ready: Archive, clock: Clock) -> None:
    now = clock()
    assert said(ready, now) is None
    assert (said(ready, now + timedelta(days=2)) or (None,))[0] is None  # nothing ever happened here


def test_the_store_of_the_workspace_keeps_its_locks(commands_here: None, ready: Archive, clock: Clock) -> None:
    done = CliRunner().invoke(app, ["--json", "vault", "probe"])
    assert done.exit_code == 0, done.output
    enforced = json.loads(done.stdout)["enforced"]
    assert set(enforced) == set(ATTEMPTS) and all(kept for name, kept in enforced.items() if name != "bypass")
    assert said(ready, clock()) is not None


def test_at_the_start_a_store_is_probed_that_was_not_within_the_term(ready: Archive, clock: Clock) -> None:
    calls: list[str] = []

    def start(url: str, now: datetime, *, locks: bool = True) -> bool:
        def tried() -> dict[str, str | None]:
            calls.append(url)
            return WHOLE

        store: Any = SimpleNamespace(probe=tried, url=url, locks=lambda: locks)
        return probing.at_start(replace(ready, vault=store), now) is not None

    assert not start("file:///vault", clock(), locks=False)
    assert start("s3://one", clock()) and not start("s3://one", clock())
    assert start("s3://other", clock())  # what one withstood says nothing of another
    assert not start("s3://one", clock() + timedelta(days=29))
    assert start("s3://one", clock() + timedelta(days=31))
    assert calls == ["s3://one", "s3://other", "s3://one"]

"""The probe over every store: a store that keeps its locks withstands each attempt, and is as it was afterwards."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from retention.vault import s3_probe
from retention.vault.base import PROBES, Vault
from retention.vault.s3_probe import ATTEMPTS
from tests.conformance.stores import Store


def test_a_store_that_locks_withstands_every_attempt(store: Store, vault: Vault) -> None:
    found = vault.probe()
    assert list(found) == (list(ATTEMPTS) if store.worm else [])
    # Who holds the keys of these stores may lift governance locks, which the probe is there to say.
    assert {name: said for name, said in found.items() if said and name != "bypass"} == {}


def test_what_was_thrown_away_goes_with_the_next_probe(
    store: Store, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_probe, "TERM", timedelta(seconds=4))
    vault.probe()
    left = {one.key for one in vault.list(PROBES)}
    if store.worm:
        assert left and not any("delete-held" in key for key in left)
        ends = datetime.now(UTC) + timedelta(seconds=6)
        while datetime.now(UTC) < ends and any(True for _ in _locked(vault)):
            pass
        vault.probe()
    assert not left & {one.key for one in vault.list(PROBES)}


def _locked(vault: Vault) -> list[str]:
    locks = [(one.key, vault.stat(one.key).lock) for one in vault.list(PROBES)]
    return [key for key, lock in locks if lock is not None and lock.until >= datetime.now(UTC)]

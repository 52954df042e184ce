"""An entry's bytes are those of RFC 8785, which an implementation of others confirms."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from retention.ledger import Agent, Event, canonical
from retention.tlog.tiles import MAX_ENTRY

AGENT = Agent(UUID(int=1), UUID(int=2), "0.1.0")
TIME = datetime(2026, 11, 22, 12, 0, 0, 123, tzinfo=UTC)

keys = st.text(st.characters(codec="ascii"), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(1 - 2**53, 2**53 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(keys, values, max_size=6))
def test_the_bytes_are_canonical(detail: dict[str, object]) -> None:
    entry = canonical(Event("ing", TIME, AGENT, (UUID(int=3),), detail=detail))
    assert entry == rfc8785.dumps(json.loads(entry))


@pytest.mark.parametrize("value", [1.5, 2**53, -(2**53), {"é": 1}, {1: 1}, b"x", object(), {"a": [{"b": 2.0}]}])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="event:"):
        canonical(Event("ing", TIME, AGENT, (), detail={"value": value}))


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        canonical(Event("ing", TIME, AGENT, (), detail={"value": "\udcff"}))


def test_an_entry_has_a_largest_size() -> None:
    with pytest.raises(ValueError, match="at most 65535"):
        canonical(Event("ing", TIME, AGENT, (), detail={"value": "x" * MAX_ENTRY}))

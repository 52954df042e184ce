"""X25519 secrets as age writes them: beside pyrage, which reads what age reads, and the specification of Bech32."""

from __future__ import annotations

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retention.age_text import age_secret, age_text

SECRETS = st.binary(min_size=32, max_size=32)


@given(SECRETS)
def test_age_reads_what_is_written(secret: bytes) -> None:
    text = age_text(secret)
    assert str(pyrage.x25519.Identity.from_str(text)) == text
    assert age_secret(text) == age_secret(f"  {text.lower()}\n") == secret


def test_what_age_makes_is_read() -> None:
    for _ in range(100):
        text = str(pyrage.x25519.Identity.generate())
        assert age_text(age_secret(text)) == text


@given(SECRETS, st.integers(0, 57), st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l"))
def test_a_symbol_that_was_changed_is_found(secret: bytes, place: int, symbol: str) -> None:
    text = age_text(secret)
    at = len(text) - 58 + place
    changed = text[:at] + symbol.upper() + text[at + 1 :]
    if changed != text:
        with pytest.raises(ValueError, match="checksum"):
            age_secret(changed)


@pytest.mark.parametrize(
    "text", ["", "AGE-SECRET-KEY-1", "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj", "é" * 74]
)
def test_what_is_no_identity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected AGE-SECRET-KEY-1"):
        age_secret(text)
    damaged = age_text(bytes(32))[:-1] + "1"
    with pytest.raises(ValueError, match="expected AGE-SECRET-KEY-1"):
        age_secret(damaged)

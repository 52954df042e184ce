"""Numbers and bytes as text, one form each: decimal without leading zeros, base64 (RFC 4648 §4) with zero padding bits.

Base64 as Python or Go decodes it has many texts for the same bytes: four for a last character that carries two bits.
A file could then change without its meaning changing, which a ledger must not allow.
"""

from __future__ import annotations

import base64
import re

MAX_NUMBER = 2**63 - 1  # what every implementation can hold

_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")


def encode_base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def decode_base64(text: str) -> bytes:
    """Raises ValueError unless `encode_base64` writes it so."""
    value = base64.b64decode(text.encode("ascii"), validate=True)
    if encode_base64(value) != text:
        raise ValueError("the last character carries bits that are not used")
    return value


def decode_number(text: str) -> int:
    """Raises ValueError unless it is a decimal from 0 to 2^63 - 1 as `str` writes it."""
    if not _NUMBER.fullmatch(text) or int(text) > MAX_NUMBER:
        raise ValueError("not a decimal from 0 to 2^63 - 1 without leading zeros")
    return int(text)

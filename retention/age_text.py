"""An X25519 secret as age writes it, AGE-SECRET-KEY-1…, and back (age-encryption.org/v1; Bech32, BIP 173).

Rules of this module:
- Bech32 is base 32 with an alphabet of its own and six symbols of a checksum, reckoned five bits at a time by a table.
  The package of that name needs ten times as long, a third of the time that it takes to open a short line, and has not
  been released since 2020.
- What is wrong with a text is said without a symbol of it.
"""

from __future__ import annotations

import base64
import binascii

_PREFIX = b"age-secret-key-"
_BASE32 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_BECH32 = b"QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_LOW = (1 << 25) - 1
_TO_VALUES, _TO_SYMBOLS = (
    bytes.maketrans(*pair) for pair in ((_BECH32, bytes(range(32))), (bytes(range(32)), _BECH32))
)
_TO_BECH32, _TO_BASE32 = bytes.maketrans(_BASE32, _BECH32), bytes.maketrans(_BECH32, _BASE32)


def _step(top: int) -> int:
    """What the five bits that are pushed out put back in."""
    back = 0
    for bit, generator in enumerate(_GENERATOR):
        back ^= generator if top >> bit & 1 else 0
    return back


_STEPS = tuple(map(_step, range(32)))


def _checksum(values: bytes, state: int) -> int:
    for value in values:
        state = (state & _LOW) << 5 ^ value ^ _STEPS[state >> 25]
    return state


_START = _checksum(bytes(c >> 5 for c in _PREFIX) + b"\0" + bytes(c & 31 for c in _PREFIX), 1)


def age_text(secret: bytes) -> str:
    """The identity whose secret is these 32 bytes."""
    symbols = base64.b32encode(secret).rstrip(b"=").translate(_TO_BECH32)
    check = _checksum(symbols.translate(_TO_VALUES) + bytes(6), _START) ^ 1
    last = bytes(check >> shift & 31 for shift in (25, 20, 15, 10, 5, 0))
    return (_PREFIX.upper() + b"1" + symbols + last.translate(_TO_SYMBOLS)).decode()


def age_secret(text: str) -> bytes:
    """The 32 bytes of an identity. Raises ValueError for what is none."""
    prefix, _, symbols = text.strip().upper().encode("ascii", "replace").rpartition(b"1")
    if prefix != _PREFIX.upper() or len(symbols) != 58 or symbols.translate(None, _BECH32):
        raise ValueError("expected AGE-SECRET-KEY-1 and 58 symbols of Bech32")
    if _checksum(symbols.translate(_TO_VALUES), _START) != 1:
        raise ValueError("the checksum of the identity is wrong: a symbol of it was changed")
    try:
        secret = base64.b32decode(symbols[:52].translate(_TO_BASE32) + b"====")
    except binascii.Error as error:
        raise ValueError(f"no base 32: {error}") from None
    if age_text(secret) != text.strip().upper():
        raise ValueError("the bits that fill its last symbol are not zero")
    return secret

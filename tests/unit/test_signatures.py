"""Signatures in the form of ssh-keygen, both ways, and every way in which one is not accepted."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from retention import signatures
from retention.errors import Refused, UsageError

STATEMENT = "Muniment asks for your signature.\nplan 1 · 3 רשומות\n".encode()

# What OpenSSH 9.2 made with this key: `ssh-keygen -Y sign -n muniment`, the same with `-n git`, `ssh-keygen -l`.
# Ed25519 is deterministic: whoever makes these very bytes is accepted by OpenSSH, and accepts its signatures.
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OPENSSH_PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
OPENSSH_FINGERPRINT = "SHA256:lbmsoA0yIEcEiVDRnMWuzm+nV+3ZEEpVIURqFoeSspg"
OPENSSH_SIGNATURE = """\
-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAgA6EHv/POEL4dcN0Y50vAmWfk1j
CbpQ1fHdyGZBJVMbgAAAAIbXVuaW1lbnQAAAAAAAAABnNoYTUxMgAAAFMAAAALc3NoLWVk
MjU1MTkAAABA8t5rKUIfB2PuD4D3z7JTORBmQngeFrH5ErUXC3laBxkuCyeFw5SmFviG1K
LIGDZuvqZATc1Kehd1vKJv9vaBBw==
-----END SSH SIGNATURE-----
"""
OPENSSH_FOR_GIT = """\
-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAgA6EHv/POEL4dcN0Y50vAmWfk1j
CbpQ1fHdyGZBJVMbgAAAADZ2l0AAAAAAAAAAZzaGE1MTIAAABTAAAAC3NzaC1lZDI1NTE5
AAAAQK0LyEr1AV1AX8x9UCfCHxhYlUBgPBDHahmsE58KHQhaMXOW9a7Vu1WHRLbSjpk+wk
eZyEDQBUMNM5LVw8X4rAs=
-----END SSH SIGNATURE-----
"""


def never() -> str:
    raise AssertionError("a passphrase was asked for")


def write_key(path: Path, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, encryption))
    path.chmod(0o600)
    return key


def test_what_is_signed_is_verified_and_nothing_else() -> None:
    key = Ed25519PrivateKey.generate()
    armored = signatures.sign(key, STATEMENT)
    assert signatures.verify(armored, STATEMENT) == signatures.public_of(key)
    with pytest.raises(Refused, match="not of this statement"):
        signatures.verify(armored, STATEMENT + b" ")


def test_ours_are_the_bytes_that_openssh_makes() -> None:
    public = signatures.public_of(KEY)
    assert signatures.sign(KEY, STATEMENT) == OPENSSH_SIGNATURE
    assert signatures.verify(OPENSSH_SIGNATURE, STATEMENT) == public
    assert signatures.public_key(OPENSSH_PUBLIC) == signatures.public_key(signatures.public_line(public)) == public
    assert signatures.fingerprint(public) == OPENSSH_FINGERPRINT


def test_another_namespace_or_a_damaged_block_is_not_a_signature() -> None:
    with pytest.raises(UsageError, match="namespace 'git'"):
        signatures.verify(OPENSSH_FOR_GIT, STATEMENT)
    good = signatures.sign(Ed25519PrivateKey.generate(), STATEMENT)
    lines = good.splitlines()
    for bad in ("", "x", "\n".join([lines[0], *lines[2:]]), good[:80] + good[-40:]):
        with pytest.raises((UsageError, Refused)):
            signatures.verify(bad, STATEMENT)


def test_every_changed_byte_is_found() -> None:
    good = signatures.sign(Ed25519PrivateKey.generate(), STATEMENT).splitlines()
    blob = base64.b64decode("".join(good[1:-1]))
    public = signatures.verify("\n".join(good), STATEMENT)
    for at in range(len(blob)):
        changed = bytearray(blob)
        changed[at] ^= 1
        armored = "\n".join([good[0], base64.b64encode(changed).decode(), good[-1]])
        try:
            assert signatures.verify(armored, STATEMENT) != public, at
        except (UsageError, Refused):
            continue


def test_private_keys(tmp_path: Path) -> None:
    key = write_key(tmp_path / "plain")
    assert signatures.public_of(signatures.private_key(tmp_path / "plain", never)) == signatures.public_of(key)
    (tmp_path / "plain").chmod(0o640)
    with pytest.raises(UsageError, match="others may read it"):
        signatures.private_key(tmp_path / "plain", never)
    write_key(tmp_path / "sealed", b"correct horse")
    signatures.private_key(tmp_path / "sealed", lambda: "correct horse")
    with pytest.raises(UsageError):
        signatures.private_key(tmp_path / "sealed", lambda: "wrong")
    with pytest.raises(UsageError, match="cannot be read"):
        signatures.private_key(tmp_path / "absent", never)


@pytest.mark.parametrize("line", ["", "ssh-rsa AAAAB3NzaC1yc2E= x", "ssh-ed25519 !!!!", "ssh-ed25519 AAAA"])
def test_a_line_that_is_no_ed25519_key(line: str) -> None:
    with pytest.raises(UsageError, match="ssh-ed25519"):
        signatures.public_key(line)

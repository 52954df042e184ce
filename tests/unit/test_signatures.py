"""Signatures in the form of ssh-keygen, both ways, and every way in which one is not accepted."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from retention import signatures
from retention.errors import Refused, UsageError

STATEMENT = "Muniment asks for your signature.\nplan 1 · 3 רשומות\n".encode()

# Made by OpenSSH 9.2: ssh-keygen -Y sign -n muniment -f KEY STATEMENT
OPENSSH_PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGZ7W2whqiFCvBHR+X4n0Zpp4zN6yNH8lolDaf3YCnBu auditor"
OPENSSH_SIGNATURE = """\
-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAgZntbbCGqIUK8EdH5fifRmmnjM3
rI0fyWiUNp/dgKcG4AAAAIbXVuaW1lbnQAAAAAAAAABnNoYTUxMgAAAFMAAAALc3NoLWVk
MjU1MTkAAABAHfoCjhipDl5pIONRLZhwAL28L7z0bxweL/iRWbBwvnTgRwIbMKK/tzPSEL
odafZe1+kkmt4jTYoxClZzYjQVAQ==
-----END SSH SIGNATURE-----
"""
NO_OPENSSH = shutil.which("ssh-keygen") is None  # what it made stands above; with it at hand, both ways are tried


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


def test_a_signature_that_openssh_made() -> None:
    assert signatures.verify(OPENSSH_SIGNATURE, STATEMENT) == signatures.public_key(OPENSSH_PUBLIC)


@pytest.mark.skipif(NO_OPENSSH, reason="no ssh-keygen")
def test_openssh_accepts_ours_and_we_accept_its(tmp_path: Path) -> None:
    key = write_key(tmp_path / "key")
    public = signatures.public_of(key)
    (tmp_path / "allowed").write_text(f"ruth {signatures.public_line(public)}\n")
    (tmp_path / "ours.sig").write_text(signatures.sign(key, STATEMENT))
    command: list[str | Path] = [
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        tmp_path / "allowed",
        "-I",
        "ruth",
        "-n",
        "muniment",
    ]
    subprocess.run([*command, "-s", tmp_path / "ours.sig"], input=STATEMENT, check=True, capture_output=True)
    (tmp_path / "statement").write_bytes(STATEMENT)
    made: list[str | Path] = [
        "ssh-keygen",
        "-Y",
        "sign",
        "-f",
        tmp_path / "key",
        "-n",
        "muniment",
        tmp_path / "statement",
    ]
    subprocess.run(made, check=True, capture_output=True)
    assert signatures.verify((tmp_path / "statement.sig").read_text(), STATEMENT) == public
    (tmp_path / "key.pub").write_text(signatures.public_line(public) + " ruth\n")
    shown = subprocess.run(["ssh-keygen", "-l", "-f", tmp_path / "key.pub"], capture_output=True, text=True, check=True)
    assert signatures.fingerprint(public) in shown.stdout
    assert signatures.public_key((tmp_path / "key.pub").read_text()) == public


@pytest.mark.skipif(NO_OPENSSH, reason="no ssh-keygen")
def test_another_namespace_or_a_damaged_block_is_not_a_signature(tmp_path: Path) -> None:
    write_key(tmp_path / "key")
    (tmp_path / "statement").write_bytes(STATEMENT)
    made: list[str | Path] = ["ssh-keygen", "-Y", "sign", "-f", tmp_path / "key", "-n", "git", tmp_path / "statement"]
    subprocess.run(made, check=True, capture_output=True)
    with pytest.raises(UsageError, match="namespace 'git'"):
        signatures.verify((tmp_path / "statement.sig").read_text(), STATEMENT)
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

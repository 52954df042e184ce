"""Time stamps of checkpoints, by an authority of our own that answers over HTTP as `openssl ts` does."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from retention.errors import MunimentError, NotFound, Refused, ServiceUnavailable, UsageError
from retention.history import offline, timestamps
from retention.tlog import note
from tests.office import Office, files, refuses

CONFIG = """[tsa]
dir = {0}
serial = {0}/serial
signer_cert = {0}/tsa.pem
signer_key = {0}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
"""


@dataclass
class Authority:
    """`spoil` changes what it answers; `asked` counts."""

    folder: Path
    url: str = ""
    asked: list[bytes] = field(default_factory=list)
    answer: bytes | None = None
    status: int = 200

    @property
    def root(self) -> Path:
        return self.folder / "root.pem"

    def reply(self, question: bytes) -> bytes:
        (self.folder / "question").write_bytes(question)
        command = ["openssl", "ts", "-reply", "-config", "config", "-section", "tsa", "-queryfile", "question"]
        subprocess.run([*command, "-out", "answer"], cwd=self.folder, check=True, capture_output=True)
        return (self.folder / "answer").read_bytes()


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey, stamps: bool
) -> bytes:
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=not stamps, path_length=None), critical=True)
    )
    if stamps:
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
    return made.sign(by, hashes.SHA256()).public_bytes(Encoding.PEM)


def _authority(folder: Path) -> Authority:
    folder.mkdir()
    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    (folder / "root.pem").write_bytes(_certificate("root", root, "root", root, stamps=False))
    (folder / "tsa.pem").write_bytes(_certificate("authority", own, "root", root, stamps=True))
    (folder / "tsa.key").write_bytes(own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "serial").write_text("01\n")
    (folder / "config").write_text(CONFIG.format(folder))
    return Authority(folder)


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    assert shutil.which("openssl"), "openssl is missing; apt-get install openssl"
    made = _authority(tmp_path / "authority")

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/timestamp-query"
            made.asked.append(question)
            content = made.reply(question) if made.answer is None else made.answer
            self.send_response(made.status)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    made.url = f"http://127.0.0.1:{server.server_port}/tsa"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def stamp(authority: Authority, *more: object) -> tuple[object, ...]:
    return ("ledger", "timestamp", "--url", authority.url, "--authority", authority.root, *more)


def test_the_newest_checkpoint_is_stamped_once_and_exported(run: Office, audit: Path, authority: Authority) -> None:
    begun = datetime.now(UTC).replace(microsecond=0)
    done = run(*stamp(authority))
    assert done["new"] and begun <= datetime.fromisoformat(done["time"]) <= datetime.now(UTC)
    again = run(*stamp(authority))
    assert (again["new"], again["key"]) == (False, done["key"]) and len(authority.asked) == 1
    run.append(3)
    run("ledger", "publish")
    later = run(*stamp(authority))
    assert later["new"] and later["size"] == done["size"] + 3

    run("ledger", "export", audit)
    assert files(run.vault / "ledger/timestamps") == files(audit / "timestamps")
    verify = ("verify", "--offline", audit, "--key", run.vkey)
    found = run(*verify, "--authority", authority.root)
    assert found["ok"] and found["stamped"] == {str(one["size"]): one["time"] for one in (done, later)}
    assert f"{later['size']:,} events was there at" in run.people(*verify, "--authority", authority.root)
    bare = run(*verify)
    assert bare["ok"] and (bare["stamped"], bare["unchecked_time_stamps"]) == ({}, 2)
    assert "2 time stamps by others, not checked" in run.people(*verify)
    assert run("verify", "--documents", "0")["ok"]
    # and by a client that we did not write
    (path,) = (audit / "timestamps" / f"{done['size']:020}").iterdir()
    data = audit / "checkpoints" / f"{done['size']:020}"
    command = ["openssl", "ts", "-verify", "-in", str(path), "-data", str(data), "-CAfile", str(authority.root)]
    assert b"Verification: OK" in subprocess.run(command, check=True, capture_output=True).stdout


def test_a_time_stamp_that_was_changed_is_named(run: Office, audit: Path, authority: Authority, tmp_path: Path) -> None:
    """Every byte of it; under another size, and of a checkpoint that is gone; with the root certificate or without."""
    sizes = [run(*stamp(authority))["size"]]
    run.append(3)
    run("ledger", "publish")
    sizes.append(run(*stamp(authority))["size"])
    run("ledger", "export", audit)
    first, second = sorted(audit.glob("timestamps/*/*"))
    whole, trusts = second.read_bytes(), [note.parse_vkey(run.vkey)]
    known = timestamps.certificates(authority.root)

    def named(with_root: bool = True) -> set[str]:
        found = offline.verify(audit, trusts, processes=1, authorities=known if with_root else ())
        return {problem.path for problem in found.problems}

    assert named() == named(with_root=False) == set()
    own = str(second.relative_to(audit))
    for at in range(0, len(whole), 40):
        second.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert named(at % 80 == 0) == {own}, at
    second.write_bytes(whole)
    moved = second.with_name(first.name)
    shutil.copy(first, moved)
    assert named(with_root=False) == {str(moved.relative_to(audit))}
    moved.rename(second.with_name("strange"))
    assert named() == {str(second.with_name("strange").relative_to(audit))}
    second.with_name("strange").unlink()
    copy = audit / "checkpoints" / second.parent.name
    copy.unlink()
    assert own in named()


def test_an_authority_that_is_none(run: Office, audit: Path, authority: Authority, tmp_path: Path) -> None:
    def refused(kind: type[MunimentError], match: str, *arguments: object) -> None:
        before = files(run.vault)
        refuses(kind, match, run, *arguments)
        assert files(run.vault) == before

    refused(UsageError, "expected --authority FILE", "ledger", "timestamp", "--url", authority.url)
    refused(UsageError, "expected the authority's root", *stamp(authority), "--authority", tmp_path / "none.pem")
    refused(UsageError, "expected http:// or https://", *stamp(authority, "--url", "file:///etc/passwd"))
    refused(ServiceUnavailable, "does not answer", *stamp(authority, "--url", "http://127.0.0.1:9/"))
    authority.status = 503
    refused(ServiceUnavailable, "answered 503", *stamp(authority))
    authority.status = 200
    stranger = _authority(tmp_path / "stranger")
    for answer, match in (
        (b"<html>Welcome</html>", "found something else"),
        (b"", "found something else"),
        (bytes.fromhex("30053003020102"), "it answered rejection"),
        (stranger.reply(authority.asked[-1]), "none of the root certificates"),
        (authority.reply(authority.asked[-1]), "Nonce mismatch"),  # of another question, replayed
    ):
        authority.answer = answer
        refused(Refused, match, *stamp(authority))
    authority.answer = bytes(200_000)
    refused(ServiceUnavailable, "it sends more", *stamp(authority))
    authority.answer = None
    assert run(*stamp(authority))["new"]
    # another authority's stamp of the same checkpoint stands beside it
    others = _authority(tmp_path / "others")
    shutil.copytree(others.folder, authority.folder, dirs_exist_ok=True)
    (authority.folder / "config").write_text(CONFIG.format(authority.folder))
    assert run(*stamp(authority))["new"] and len(files(run.vault / "ledger/timestamps")) == 2


def test_before_anything_was_published(run: Office, authority: Authority) -> None:
    refuses(NotFound, "nothing of the ledger was published yet", run, *stamp(authority))
    assert authority.asked == []

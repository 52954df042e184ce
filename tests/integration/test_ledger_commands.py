"""`muniment ledger …`, `verify --offline` and `proof`: what is handed out is whole, and what is not is refused."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from retention import ledger
from retention.archive import Archive, open_archive
from retention.database import transaction
from retention.errors import Damaged, MunimentError, NotFound, Refused, UsageError
from retention.history import export, offline, publishing
from retention.ledger import Event
from retention.tlog import checkpoint, note
from retention.tlog.checkpoint import Checkpoint
from retention.vault.base import Vault
from retention.vault.s3 import S3Vault
from tests.office import ORIGIN, Office, files, refuses
from tests.owning import owning

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/auditing.md"


# ---------------------------------------------------------------- keys, publishing


def test_keys_are_listed_by_number_and_sign_one_after_the_other(run: Office, tmp_path: Path) -> None:
    refuses(Refused, "refusing to make a first key", run, "ledger", "init", "--origin", ORIGIN)
    first = run("ledger", "publish")
    again = run("ledger", "publish")
    assert (first["before"], again["before"], again["tiles"]) == (0, first["size"], 0)
    second = run("ledger", "rotate")
    listed = run("ledger", "key")["keys"]
    assert [(key["number"], key["vkey"]) for key in listed] == [(1, run.vkey), (2, second["vkey"])]
    assert f"2 {second['vkey']}\n" in run.people("ledger", "key")
    grown = run("ledger", "publish")
    assert grown["before"] == first["size"] and grown["size"] == first["size"] + 1  # the event of the hand-over
    run("ledger", "export", tmp_path / "audit")
    found = run("verify", "--offline", tmp_path / "audit", "--key", run.vkey)  # whoever trusts the first key
    assert (found["size"], found["root"], found["checkpoints"]) == (grown["size"], grown["root"], 3)
    assert found["signed_by"] == ["+".join(second["vkey"].split("+")[:2])]


def test_before_there_is_a_key_or_anything_published(run: Office, tmp_path: Path) -> None:
    refuses(NotFound, "nothing of the ledger was published yet", run, "ledger", "export", tmp_path / "audit")
    refuses(NotFound, "none of them published yet", run, "proof", run.record, "-o", tmp_path / "p.json")
    assert not (tmp_path / "audit").exists() and not (tmp_path / "p.json").exists()


# ---------------------------------------------------------------- export


def test_an_export_is_what_was_published_and_verifies(run: Office, audit: Path) -> None:
    """And is gone on with: what is there is kept, what is missing or cut is copied, `--all` copies all."""
    whole = files(audit)
    published = files(run.vault / "ledger")
    assert whole == {name: published[name] for name in whole} == published
    found = run("verify", "--offline", audit, "--key", run.vkey)
    assert found["ok"] and found["size"] > 600 and found["problems"] == []
    assert "whole" in run.people("verify", "--offline", audit, "--key", run.vkey)

    (audit / "tile/0/001").unlink()
    (audit / "tile/entries/000").write_bytes(b"cut")
    (audit / ".unfinished").mkdir()
    (audit / ".unfinished/tile_0_001").write_bytes(b"half")
    changed = audit / "tile/0/000"
    changed.write_bytes(bytes(changed.stat().st_size))
    assert run("ledger", "export", audit)["copied"] == 2
    assert run("verify", "--offline", audit, "--key", run.vkey, code=1)["problems"][0]["path"] == "tile/0/000"
    everything = run("ledger", "export", audit, "--all")
    assert everything["copied"] == everything["files"] - 2 and files(audit) == whole  # but for two checkpoints

    run.append(200)
    run("ledger", "publish")
    grown = run("ledger", "export", audit)
    assert 0 < grown["copied"] < everything["copied"] + 3
    assert run("verify", "--offline", audit, "--key", run.vkey)["size"] == grown["size"]


def test_an_export_leaves_older_partial_files_behind(run: Office, audit: Path, tmp_path: Path) -> None:
    run.append(3)
    run("ledger", "publish")
    run("ledger", "export", tmp_path / "second")
    partial = {name for name in files(run.vault / "ledger") if ".p/" in name}
    assert {name for name in files(tmp_path / "second") if ".p/" in name} < partial
    assert run("verify", "--offline", tmp_path / "second", "--key", run.vkey)["ok"]


def test_the_checkpoint_comes_last(run: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("ledger", "publish")
    written: list[str] = []
    write = export._write

    def cut(folder: Path, name: str, content: bytes) -> None:
        written.append(name)
        if len(written) == 5:
            raise OSError("cut")
        write(folder, name, content)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="cut"):
        patch.setattr(export, "_write", cut)
        run("ledger", "export", tmp_path / "audit")
    assert not (tmp_path / "audit/checkpoint").exists()
    refuses(UsageError, "expected a published", run, "verify", "--offline", tmp_path / "audit", "--key", run.vkey)
    done = run("ledger", "export", tmp_path / "audit")
    assert done["copied"] < done["files"] - 2  # some were there
    assert run("verify", "--offline", tmp_path / "audit", "--key", run.vkey)["ok"]


def test_where_an_export_does_not_go(run: Office, audit: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    refuses(UsageError, "refusing to export beside 'notes.txt'", run, "ledger", "export", tmp_path / "mine")
    former = (run.vault / "ledger/checkpoint").read_bytes()
    run.append(1)
    run("ledger", "publish")
    run("ledger", "export", audit)
    newest = run.vault / "ledger/checkpoint"
    newest.chmod(0o600)
    newest.write_bytes(former)  # rolled back, but for the copies
    refuses(Refused, "but one of .* was signed", run, "ledger", "export", tmp_path / "new")
    max((run.vault / "ledger/checkpoints").iterdir()).unlink()
    refuses(Refused, "the vault is behind it, so it was rolled back", run, "ledger", "export", audit)
    stranger = note.parse_skey(note.skey(ORIGIN, 1, bytes(32)))
    other = tmp_path / "other"
    other.mkdir()
    (other / "checkpoint").write_bytes(checkpoint.sign(Checkpoint(ORIGIN, 1, bytes(32)), stranger).encode())
    refuses(Refused, "no former export of", run, "ledger", "export", other)


def test_what_the_vault_lacks_is_listed_and_the_rest_copied(run: Office, tmp_path: Path) -> None:
    run("ledger", "publish")
    (run.vault / "ledger/tile/entries/001").unlink()
    done = run("ledger", "export", tmp_path / "audit", code=1)
    assert done["missing"] == ["ledger/tile/entries/001"]
    found = run("verify", "--offline", tmp_path / "audit", "--key", run.vkey, code=1)
    assert [problem["path"] for problem in found["problems"]] == ["tile/entries/001"]


def test_a_checkpoint_that_is_replaced_while_it_is_read(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version that was listed goes before it is asked for; on S3 that says: not there."""
    vault: Vault = archive.vault
    assert isinstance(vault, S3Vault)
    vault.replace(publishing.CHECKPOINT, b"former")
    listed = vault._first_or_absent

    def replaced(key: str) -> str:
        version = listed(key)
        monkeypatch.setattr(vault, "_first_or_absent", listed)
        vault.replace(key, b"newest")
        return version

    monkeypatch.setattr(vault, "_first_or_absent", replaced)
    with vault.open(publishing.CHECKPOINT) as file:
        assert file.read() == b"newest"


# ---------------------------------------------------------------- verify --offline


def test_verify_needs_neither_services_nor_their_clients(audit: Path, run: Office, tmp_path: Path) -> None:
    script = (
        "import sys, ingest.cli as cli\n"
        "try:\n    cli.main()\n"
        "finally:\n"
        "    heavy = {'psycopg', 'boto3', 'botocore', 'pyrage', 'airflow', 'pandas'} & {*sys.modules}\n"
        "    assert not heavy, heavy"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    proof = tmp_path / "p.json"
    run("proof", run.record, "-o", proof)
    for command in (["verify", "--offline", str(audit)], ["proof", "--check", str(proof)]):
        done = subprocess.run(
            [sys.executable, "-c", script, *command, "--key", run.vkey],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "var/services").exists()


def test_verify_without_what_it_needs(run: Office, audit: Path) -> None:
    refuses(UsageError, "give them with --offline DIR", run, "verify", "--witness", run.vkey)
    refuses(UsageError, "expected --key VKEY", run, "verify", "--offline", audit)
    refuses(UsageError, "verifier key 'x': expected", run, "verify", "--offline", audit, "--key", "x")


# ---------------------------------------------------------------- proof


def test_the_events_of_one_record_are_proven(run: Office, audit: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    made = run("proof", run.record, "-o", path, "--split", tmp_path / "split")
    assert made["events"] and made["unpublished"] == 0
    checked = run("proof", "--check", path, "--key", run.vkey)
    assert checked["ok"] and [event["position"] for event in checked["events"]] == made["events"]
    assert all(run.record in event["subjects"] for event in checked["events"])
    assert "proven" in run.people("proof", "--check", path, "--key", run.vkey)
    with open_archive(run.settings, datetime.now(UTC)) as archive, transaction(archive.connections) as conn:
        rows = conn.execute(
            "SELECT position, entry FROM event_subjects JOIN events USING (position) WHERE subject_id = %s",
            (run.record,),
        ).fetchall()
    whole = {f"{position}.json": bytes(entry) for position, entry in rows}
    value = json.loads(path.read_text())
    whole |= {f"{event['position']}.tlog-proof": event["proof"].encode() for event in value["events"]}
    assert files(tmp_path / "split") == whole
    assert value["checkpoint"].encode() == (audit / "checkpoint").read_bytes()


def test_what_is_not_published_is_counted(run: Office, audit: Path, tmp_path: Path) -> None:
    with open_archive(run.settings, datetime.now(UTC)) as archive, transaction(archive.connections) as conn:
        now = datetime.now(UTC)
        (subject,) = conn.execute("SELECT %s::uuid", (run.record,)).fetchone() or ()
        ledger.append(conn, [Event("fix", now, archive.agent, (subject,))] * 2, now)
    made = run("proof", run.record, "-o", tmp_path / "p.json")
    assert made["unpublished"] == 2
    assert "2 newer events are not published yet" in made["stderr"] and "ledger publish" in made["stderr"]
    run("ledger", "publish")
    assert len(run("proof", run.record, "-o", tmp_path / "p.json")["events"]) == len(made["events"]) + 2


def test_an_event_that_the_catalog_has_otherwise_is_not_proven(run: Office, audit: Path, tmp_path: Path) -> None:
    with open_archive(run.settings, datetime.now(UTC)) as archive, owning(archive) as conn:
        conn.execute("ALTER TABLE events DISABLE TRIGGER USER")
        conn.execute(
            "UPDATE events SET entry = overlay(entry placing 'x'::bytea from 3) WHERE position = "
            "(SELECT min(position) FROM event_subjects WHERE subject_id = %s)",
            (run.record,),
        )
        conn.execute("ALTER TABLE events ENABLE TRIGGER USER")
    refuses(Damaged, "event 30., as the catalog has it", run, "proof", run.record, "-o", tmp_path / "p.json")
    assert not (tmp_path / "p.json").exists()


def _event(value: dict[str, Any], **changed: Any) -> None:
    value["events"][0] |= changed


def _rewritten(value: dict[str, Any]) -> None:
    entry = base64.b64decode(value["events"][0]["entry"])
    _event(value, entry=base64.b64encode(entry.replace(b'"success"', b'"failure"')).decode())


def _of_another_record(value: dict[str, Any]) -> None:
    value["record"] = str(uuid4())


def _signature(value: dict[str, Any]) -> None:
    value["checkpoint"] = value["checkpoint"].replace(ORIGIN + "\n", ORIGIN + "x\n")


def _other_checkpoint(value: dict[str, Any]) -> None:
    _event(value, proof=value["events"][0]["proof"] + value["checkpoint"].splitlines()[-1] + "\n")


def _position(value: dict[str, Any]) -> None:
    _event(value, position=7)


def _twice(value: dict[str, Any]) -> None:
    value["events"] *= 2


@pytest.mark.parametrize(
    ("change", "place", "said"),
    [
        (_rewritten, "event 30.", "Either the entry is not the one that was logged"),
        (_of_another_record, "event 30.", "is none of"),
        (_signature, "checkpoint", "is not of this text"),
        (_other_checkpoint, "event 30.", "another checkpoint than that of the file"),
        (_position, "event 7", "positions that rise"),
        (_twice, "event 30.", "positions that rise"),
    ],
)
def test_a_proof_that_was_changed(
    run: Office, audit: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], place: str, said: str
) -> None:
    path = tmp_path / "p.json"
    run("proof", run.record, "-o", path)
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    found = run("proof", "--check", path, "--key", run.vkey, code=1)
    problem = found["problems"][0]
    assert re.fullmatch(place.replace(".", r"\d"), problem["path"]) and said in problem["said"], problem
    assert f"NOT PROVEN, {len(found['problems'])} problems" in run.people("proof", "--check", path, "--key", run.vkey)


def test_what_is_no_proof(run: Office, audit: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    key = ("--key", run.vkey)
    refuses(UsageError, "either RECORD, whose proof", run, "proof")
    refuses(UsageError, "either RECORD, whose proof", run, "proof", run.record, "--check", path, *key)
    refuses(UsageError, "where to write it", run, "proof", run.record)
    refuses(NotFound, "no event of", run, "proof", uuid4(), "-o", path)
    refuses(UsageError, "not there", run, "proof", "--check", path, *key)
    for text in ("", "[]", '{"record": 1}', json.dumps({"record": run.record, "checkpoint": "", "events": []})):
        path.write_text(text)
        refuses(Damaged, "expected JSON with `record`, `checkpoint` and `events`", run, "proof", "--check", path, *key)


# ---------------------------------------------------------------- the witness


@dataclass(frozen=True)
class Witness:
    office: Office
    folder: Path

    @property
    def key(self) -> Path:
        return self.folder / "witness.key"

    @property
    def state(self) -> Path:
        return self.folder / "witness.json"

    def arguments(self, audit: Path, *more: object) -> tuple[object, ...]:
        return ("ledger", "cosign", audit, "--key-file", self.key, "--state", self.state, *more)

    def __call__(self, audit: Path, *more: object) -> dict[str, Any]:
        return self.office(*self.arguments(audit, *more))

    def refuses(self, kind: type[MunimentError], match: str, audit: Path, *more: object) -> None:
        before = {**files(self.folder), "": (audit / "checkpoint").read_bytes() if audit.is_dir() else b""}
        refuses(kind, match, self.office, *self.arguments(audit, *more))
        assert before == {**files(self.folder), "": (audit / "checkpoint").read_bytes() if audit.is_dir() else b""}


@pytest.fixture
def witness(run: Office, audit: Path, tmp_path: Path) -> Witness:
    """It has seen the first checkpoint."""
    made = Witness(run, tmp_path / "auditor")
    made.folder.mkdir()
    first = made(audit, "--init", "auditor.example.org/witness", "--key", run.vkey)
    assert first["finding"] == "first"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (made.key, made.state)} == {0o600}
    return made


def test_a_witness_cosigns_what_extends(run: Office, audit: Path, witness: Witness) -> None:
    run.append(300)
    run("ledger", "publish")
    run("ledger", "export", audit)
    extended = witness(audit)
    assert extended["finding"] == "extends"
    assert witness(audit)["finding"] == "unchanged"
    known = note.parse_vkey(run.vkey), note.parse_vkey(extended["witness"])
    data = (audit / "checkpoint").read_bytes()
    opened = checkpoint.open_signed(data, ORIGIN, known[:1], known[1:])
    ((verifier, time),) = opened.cosigned  # once, whatever was renewed
    assert verifier == known[1] and abs(time - datetime.now(UTC).timestamp()) < 60
    assert run("verify", "--offline", audit, "--key", run.vkey)["ok"]
    run("ledger", "export", audit)
    assert (audit / "checkpoint").read_bytes() == data  # an export of the same keeps the cosignature
    run("ledger", "rotate")
    run("ledger", "publish")
    run("ledger", "export", audit)
    witness.refuses(Damaged, "expected a signature by", audit)
    new = run("ledger", "key")["keys"][1]["vkey"]
    assert witness(audit, "--key", new)["finding"] == "extends"
    assert witness(audit)["finding"] == "unchanged"  # it is remembered


def test_a_witness_refuses_forks_and_rollbacks(run: Office, audit: Path, witness: Witness, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(audit, old)
    run.append(300)
    run("ledger", "publish")
    run("ledger", "export", audit)
    witness(audit)
    witness.refuses(Refused, "refusing to cosign .*: size .* after size", old)

    (key,) = (run.settings.root / "keys").glob("ledger-*.key")
    signer = note.parse_skey(key.read_text().strip())
    data = (audit / "checkpoint").read_bytes()
    size = checkpoint.open_signed(data, ORIGIN, [signer.verifier]).checkpoint.size
    for forged, match in ((size, "a fork: size"), (size + 1, "missing, so nothing shows"), (size - 1, "after size")):
        signed = checkpoint.sign(Checkpoint(ORIGIN, forged, bytes(32)), signer)
        (audit / "checkpoint").write_bytes(signed.encode())
        witness.refuses(Refused if forged <= size else Damaged, match, audit)
    (audit / "checkpoint").write_bytes(data)
    assert witness(audit)["finding"] == "unchanged"

    run.append(300)
    run("ledger", "publish")
    run("ledger", "export", audit)
    tile = audit / "tile/0/003"
    tile.write_bytes(bytes(tile.stat().st_size))  # of the part that is new: what is proven is not what was signed
    witness.refuses(Refused, "not shown to extend", audit)


def test_what_a_witness_needs(run: Office, audit: Path, witness: Witness, tmp_path: Path) -> None:
    init = ("--init", "auditor.example.org/witness")
    witness.refuses(Refused, "refusing to make a witness over", audit, *init, "--key", run.vkey)
    witness.refuses(UsageError, "expected an exported ledger with its `checkpoint`", tmp_path / "nothing")
    witness.key.chmod(0o640)
    witness.refuses(Refused, r"others can read it \(mode 640\)", audit)
    witness.key.chmod(0o600)
    state = witness.state.read_bytes()
    witness.state.write_bytes(state.replace(ORIGIN.encode() + b"\\n", b"other\\n"))
    witness.refuses(Damaged, "expected what this witness remembers", audit)
    witness.state.unlink()
    witness.refuses(NotFound, "without it no fork can be seen", audit)
    witness.key.unlink()
    witness.refuses(NotFound, "no key of a witness", audit)
    witness.refuses(UsageError, "expected --key VKEY", audit, *init)
    witness.refuses(UsageError, "a witness's name", audit, "--init", "two words", "--key", run.vkey)
    stranger = note.parse_skey(note.skey(ORIGIN, 1, bytes(32))).verifier.vkey
    witness.refuses(Damaged, "expected a signature by", audit, *init, "--key", stranger)


# ---------------------------------------------------------------- cosignatures come back


@pytest.fixture
def cosigned(run: Office, audit: Path, witness: Witness) -> tuple[Path, str, int]:
    """An export with two checkpoints, both cosigned and given back; the witness's key, the second size."""
    first = witness(audit)
    vkey = first["witness"]
    added = run("ledger", "add-cosignature", audit / "checkpoint", "--witness", vkey)
    assert [one["new"] for one in added["kept"]] == [True]
    run.append(300)
    run("ledger", "publish")
    run("ledger", "export", audit)
    size = witness(audit)["size"]
    run("ledger", "add-cosignature", audit / "checkpoint", "--witness", vkey)
    run("ledger", "export", audit)
    return audit, vkey, size


def test_cosignatures_are_kept_and_exported(run: Office, witness: Witness, cosigned: tuple[Path, str, int]) -> None:
    """Once: a later one of the same checkpoint changes nothing. Without the witness's key they are no problem."""
    audit, vkey, size = cosigned
    name = "+".join(vkey.split("+")[:2])
    kept = files(run.vault / "ledger/cosignatures")
    assert kept == files(audit / "cosignatures") and len(kept) == 2
    found = run("verify", "--offline", audit, "--key", run.vkey, "--witness", vkey)
    ((by, sizes),) = [(one["witness"], one["sizes"]) for one in found["cosigned"]]
    assert by == name and len(sizes) == 2 and max(sizes) == size
    assert found["ok"] and (found["checkpoints"], found["unchecked_cosignatures"]) == (3, 0)
    said = run.people("verify", "--offline", audit, "--key", run.vkey, "--witness", vkey)
    assert f"2 checkpoints cosigned by {name}, up to that of {size:,} events" in said
    bare = run("verify", "--offline", audit, "--key", run.vkey)
    assert bare["ok"] and bare["cosigned"] == [] and bare["unchecked_cosignatures"] == 2
    assert run("verify", "--documents", "0")["ok"]  # nor do they stumble over them who check the whole archive

    known = [note.parse_vkey(run.vkey)]
    opened = checkpoint.open_signed((audit / "checkpoint").read_bytes(), ORIGIN, known)
    signer = note.parse_skey(witness.key.read_text().strip())
    later = opened.note.signed(checkpoint.cosign(opened, signer, 2_000_000_000))
    (audit / "checkpoint").write_bytes(later.encode())
    again = run("ledger", "add-cosignature", audit / "checkpoint", "--witness", vkey)
    assert [one["new"] for one in again["kept"]] == [False] and "2033" not in str(again)
    assert files(run.vault / "ledger/cosignatures") == kept


def test_cosignatures_that_are_not_taken(run: Office, cosigned: tuple[Path, str, int], tmp_path: Path) -> None:
    audit, vkey, size = cosigned
    before = files(run.vault)
    (key,) = (run.settings.root / "keys").glob("ledger-*.key")
    ours = note.parse_skey(key.read_text().strip())
    other = note.parse_skey(note.skey("auditor.example.org/other", 4, b"o" * 32))
    file = tmp_path / "given"

    def refused(kind: type[MunimentError], match: str, data: bytes, witness: str = vkey) -> None:
        file.write_bytes(data)
        refuses(kind, match, run, "ledger", "add-cosignature", file, "--witness", witness)
        assert files(run.vault) == before

    def signed(head: Checkpoint, by: note.Signer) -> bytes:
        opened = checkpoint.open_signed(checkpoint.sign(head, by).encode(), head.origin, [by.verifier])
        return opened.note.signed(checkpoint.cosign(opened, other, 1_700_000_000)).encode()

    whole = (audit / "checkpoint").read_bytes()
    refused(Refused, "none of its signatures is by", whole, other.verifier.vkey)
    head = checkpoint.parse(note.parse(whole).text)
    true = note.parse(signed(head, ours))
    forged = note.Signature(true.signatures[1].name, true.signatures[1].key_id, bytes(72))
    refused(Damaged, "is not of this text", true.signed(forged).encode(), other.verifier.vkey)
    refused(Refused, "proves that the log said both", signed(replace(head, root=bytes(32)), ours), other.verifier.vkey)
    refused(Refused, "no checkpoint of that size", signed(replace(head, size=size - 1), ours), other.verifier.vkey)
    stranger = note.parse_skey(note.skey(ORIGIN, 1, bytes(32)))
    refused(Damaged, "expected a signature by|not signed by", signed(head, stranger), other.verifier.vkey)
    refused(UsageError, "a witness signs with kind", whole, run.vkey)
    refuses(UsageError, "expected --witness VKEY", run, "ledger", "add-cosignature", file)
    refuses(UsageError, "not there", run, "ledger", "add-cosignature", tmp_path / "no", "--witness", vkey)
    refuses(
        UsageError, "that of a witness", run, "verify", "--offline", audit, "--key", run.vkey, "--witness", run.vkey
    )


def test_a_cosignature_that_was_changed_is_named(run: Office, cosigned: tuple[Path, str, int], tmp_path: Path) -> None:
    """Every byte of it; swapped, replayed and of a checkpoint that is gone."""
    audit, vkey, _ = cosigned
    first, second = sorted(path for path in (audit / "cosignatures").glob("*/*"))
    contents = first.read_bytes(), second.read_bytes()
    trusts, witnesses = [note.parse_vkey(run.vkey)], [note.parse_vkey(vkey)]

    def named() -> set[str]:
        return {problem.path for problem in offline.verify(audit, trusts, processes=1, witnesses=witnesses).problems}

    def path(file: Path) -> str:
        return str(file.relative_to(audit))

    assert named() == set()
    for at in range(0, len(contents[1]), 5):
        second.write_bytes(contents[1][:at] + bytes([contents[1][at] ^ 1]) + contents[1][at + 1 :])
        assert named() == {path(second)}, at
    second.write_bytes(contents[0])
    assert named() == {path(second)}  # replayed
    first.write_bytes(contents[1])
    assert named() == {path(first), path(second)}  # swapped
    first.write_bytes(contents[0])
    second.write_bytes(contents[1])
    strange = second.with_name("0" * 8)
    second.rename(strange)
    assert named() == {path(strange)}
    strange.rename(second)
    (audit / "cosignatures/notes").write_bytes(b"")
    assert named() == {"cosignatures/notes"}
    (audit / "cosignatures/notes").unlink()
    (audit / "checkpoints" / first.parent.name).unlink()
    assert named() == {path(first)}


# ---------------------------------------------------------------- docs/auditing.md


def typed(block: str) -> str:
    """A block as a shell runs it: each line must succeed, or exit as its comment says."""
    lines = ["set -euo pipefail"]
    for line in block.splitlines():
        command, _, code = line.partition("# exits ")
        if code:
            lines.append(f"code=0; {command}|| code=$?; test $code = {code}")
        else:
            lines.append(line)
    return "\n".join(lines)


def test_the_auditor_types_the_page(run: Office, tmp_path: Path) -> None:
    """Section 1 at the archive; the rest in a folder with what was handed over, without workspace or services."""
    archive_part, auditor_part = PAGE.read_text("utf-8").split("\n## 2. ", 1)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    bare = {key: value for key, value in os.environ.items() if not key.startswith(("MUNIMENT_", "AWS_"))}
    bare["PATH"] = f"{Path(sys.executable).parent}:{bare['PATH']}"
    said = ""

    def type_in(part: str, folder: Path, **environment: str) -> None:
        nonlocal said
        for block in re.findall(r"^```sh\n(.*?)^```$", part, re.MULTILINE | re.DOTALL):
            done = subprocess.run(
                ["bash", "-c", typed(block)],
                env={**bare, **environment},
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, (block, done.stdout[-2000:], done.stderr[-2000:])
            said += done.stdout

    muniment = {name: value for name, value in os.environ.items() if name.startswith("MUNIMENT_")}
    type_in(archive_part, here, RECORD=run.record, **muniment)
    assert f"1 {run.vkey}\n" in said
    there.mkdir()
    for name in ("audit", "proofs", "record.json"):
        shutil.move(here / name, there / name)
    type_in(auditor_part, there, RECORD=run.record, KEY=run.vkey)
    assert f"{ORIGIN} 60" in said  # what the other client says of the checkpoint
    assert "event 30" in said and "NOT AS IT WAS SIGNED, 1 problems" in said
    assert not (there / "var").exists()

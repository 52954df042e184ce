"""An auditor's own witness: it remembers one checkpoint of a log, and cosigns only what extends it.

Rules of this module (c2sp.org/tlog-witness, tlog-cosignature):
- It runs on the auditor's machine, over an exported folder: its key and its memory are files of mode 600 there.
- First judge, then remember for good, only then hand out the cosignature: after a crash it may have remembered what
  it never cosigned, never the reverse. One process at a time, by a lock on the key's file.
- A witness without its memory sees no fork. So a memory that is gone is refused, never begun anew: that is another
  witness, with another key.
- The log's public keys are remembered too; a key that is given beside them is trusted from then on.
- That the entries are what the root says is not its business: `muniment verify --offline` does that.
"""

from __future__ import annotations

import fcntl
import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from retention import merkle
from retention.errors import Damaged, NotFound, Refused, UsageError
from retention.private_files import write_private
from retention.tlog import checkpoint, note, tiles
from retention.tlog.checkpoint import Checkpoint, Opened, Verdict
from retention.tlog.note import COSIGNATURE, Signature, Signer, Verifier
from retention.tlog.tiles import Tile


@dataclass(frozen=True, slots=True)
class Memory:
    """What a witness knows of a log: its keys, and the newest checkpoint that it judged, none at first."""

    keys: tuple[Verifier, ...]
    newest: Opened | None

    def encode(self) -> bytes:
        signed = self.newest.note.encode().decode() if self.newest else None
        return json.dumps({"keys": [key.vkey for key in self.keys], "checkpoint": signed}, indent=1).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Cosigned:
    """What was judged, and the line that was added to the checkpoint."""

    checkpoint: Checkpoint
    verdict: Verdict
    witness: Verifier
    signature: Signature


def create(folder: Path, key_file: Path, state_file: Path, name: str, log: Sequence[Verifier]) -> Verifier:
    """A new witness called `name`, of the log that one of the keys signed in `folder`.

    Raises Refused if the witness's files are there, UsageError for what is no name, Damaged for another log."""
    if not log:
        raise UsageError("a witness is of one log: give the public key of it, `--key VKEY`.")
    _opened(folder, log)
    for path in (key_file, state_file):
        if path.exists():
            raise Refused(
                f"refusing to make a witness over {path}, which is there. Leave `--init` out to cosign with it, or "
                "name other files."
            )
    try:
        private = note.skey(name, COSIGNATURE, secrets.token_bytes(32))
    except ValueError as error:
        raise UsageError(f"a witness's name: {error}. For example auditor.example.org/witness.") from None
    # The key last: what has a key has a memory.
    write_private(state_file, Memory(tuple(log), None).encode())
    write_private(key_file, f"{private}\n".encode())
    return note.parse_skey(private).verifier


def cosign(folder: Path, key_file: Path, state_file: Path, log: Sequence[Verifier], time: int) -> Cosigned:
    """Judge the checkpoint in `folder`, remember it, and add the cosignature of `time` (Unix seconds) to it.

    Raises Refused, with the finding, for what does not extend the one that is remembered."""
    with _locked(key_file) as file:
        signer = _signer(key_file, file)
        memory = _remembered(state_file, log)
        path, opened = folder / "checkpoint", _opened(folder, memory.keys)
        former = memory.newest.checkpoint if memory.newest else None
        verdict = checkpoint.judge(former, opened.checkpoint, _proof(folder, former, opened.checkpoint))
        if not verdict.accepted:
            raise Refused(f"refusing to cosign {path}: {verdict.reason.removeprefix('refusing ')}")
        write_private(state_file, Memory(memory.keys, opened).encode())
        signature = checkpoint.cosign(opened, signer, time)
        _replace(path, opened.note.signed(signature).encode())
        return Cosigned(opened.checkpoint, verdict, signer.verifier, signature)


def _opened(folder: Path, log: Sequence[Verifier]) -> Opened:
    path = folder / "checkpoint"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{folder}: expected an exported ledger with its `checkpoint`.") from None
    return checkpoint.open_signed(data, log[0].name, log, what=str(path))


def _proof(folder: Path, former: Checkpoint | None, new: Checkpoint) -> list[bytes]:
    """That `new` extends what is remembered, from the tiles; nothing where no proof could."""
    if former is None or former.size > new.size:
        return []

    def read(tile: Tile) -> bytes:
        try:
            return (folder / tile.path).read_bytes()
        except FileNotFoundError:
            raise Damaged(f"{folder / tile.path}: missing, so nothing shows that it extends. Export it.") from None

    return merkle.consistency_proof(former.size, new.size, tiles.node_reader(new.size, read))


def _remembered(state_file: Path, log: Sequence[Verifier]) -> Memory:
    try:
        text = state_file.read_text("utf-8")
    except FileNotFoundError:
        raise NotFound(
            f"{state_file}: the memory of this witness is not there, and without it no fork can be seen. Restore it. "
            "If it is lost for good, so is the witness: make another one with files and a name of its own (`--init`)."
        ) from None
    try:
        value = json.loads(text)
        known = [note.parse_vkey(vkey) for vkey in value["keys"]]
        trusts = tuple(dict.fromkeys([*known, *log]))
        signed = value["checkpoint"]
        if signed is None:
            return Memory(trusts, None)
        return Memory(trusts, checkpoint.open_signed(signed.encode(), known[0].name, known, what="checkpoint"))
    except (ValueError, LookupError, TypeError, AttributeError, UsageError, Damaged) as error:
        raise Damaged(
            f"{state_file}: expected what this witness remembers, found something else ({error}). Restore it."
        ) from None


@contextmanager
def _locked(key_file: Path) -> Iterator[BinaryIO]:
    try:
        file = key_file.open("rb")
    except FileNotFoundError:
        raise NotFound(f"{key_file}: no key of a witness is there. Make one: `--init NAME`.") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _signer(key_file: Path, file: BinaryIO) -> Signer:
    if (mode := key_file.stat().st_mode & 0o777) & 0o077:
        raise Refused(f"refusing to use {key_file}: others can read it (mode {mode:o}). `chmod 600 {key_file}`.")
    return note.parse_skey(file.read().decode("ascii", "replace").strip())


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

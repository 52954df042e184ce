"""c2sp.org/tlog-proof@v1: written as others write it, read strictly, and verified against every flipped bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tlog_scales import cli

from retention import merkle
from retention.errors import Damaged, UsageError
from retention.tlog import checkpoint, note, proof, tiles
from retention.tlog.canonical import encode_base64
from retention.tlog.checkpoint import Checkpoint
from retention.tlog.note import COSIGNATURE, ED25519
from retention.tlog.proof import Proof

ORIGIN = "example.com/log"
LOG = note.parse_skey(note.skey(ORIGIN, ED25519, b"l" * 32))
AUDITOR = note.parse_skey(note.skey("auditor.example/witness", COSIGNATURE, b"a" * 32))
ENTRIES = [f"entry {n}".encode() for n in range(300)]
LEAVES = [merkle.leaf_hash(entry) for entry in ENTRIES]
SIGNED = checkpoint.sign(Checkpoint(ORIGIN, 300, merkle.tree_root(LEAVES)), LOG)
ONE, TWO = sha256(b"hash1").digest(), sha256(b"hash2").digest()


def _node(level: int, index: int) -> bytes:
    return merkle.tree_root(LEAVES[index << level : (index + 1) << level])


def _proof(index: int, **more: bytes) -> Proof:
    return Proof(index, tuple(merkle.inclusion_proof(index, 300, _node)), SIGNED.encode(), **more)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (
            Proof(5, (ONE, TWO), b"test checkpoint\n"),
            f"c2sp.org/tlog-proof@v1\nindex 5\n{encode_base64(ONE)}\n{encode_base64(TWO)}\n\ntest checkpoint\n",
        ),
        (
            Proof(10, (ONE,), b"checkpoint data\n", b"extra information"),
            "c2sp.org/tlog-proof@v1\nextra ZXh0cmEgaW5mb3JtYXRpb24=\n"
            f"index 10\n{encode_base64(ONE)}\n\ncheckpoint data\n",
        ),
        (Proof(0, (), b"checkpoint\n"), "c2sp.org/tlog-proof@v1\nindex 0\n\ncheckpoint\n"),
    ],
)
def test_the_vectors_of_transparency_dev_formats(made: Proof, text: str) -> None:
    assert made.encode().decode() == text
    assert proof.parse(text.encode()) == made


def test_a_client_that_we_did_not_write_makes_the_same_proof(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """tlog-scales reads the published directory: `gen-proof` is our file, `get-leaf --check` our entry."""
    (tmp_path / "checkpoint").write_bytes(SIGNED.encode())
    for tile, content in tiles.grow(0, lambda _: b"", LEAVES):
        files = {tile: content}
        if tile.level == 0:
            files[tile.entries] = tiles.encode(ENTRIES[tile.index * 256 :][: tile.width])
        for written, its_content in files.items():
            (tmp_path / written.path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / written.path).write_bytes(its_content)
    for index in (0, 255, 256, 299):
        monkeypatch.setattr("sys.argv", ["tlog-tiles", "gen-proof", str(tmp_path), str(index)])
        cli.main()
        assert capsysbinary.readouterr().out == _proof(index).encode()
        monkeypatch.setattr("sys.argv", ["tlog-tiles", "get-leaf", "--check", str(tmp_path), str(index)])
        cli.main()
        assert capsysbinary.readouterr().out == ENTRIES[index]


@pytest.mark.parametrize("index", [0, 1, 255, 256, 299])
def test_a_proof_is_verified_without_the_log(index: int) -> None:
    made = proof.parse(_proof(index, extra=b"for whom it may concern").encode())
    opened = proof.verify(made, merkle.leaf_hash(ENTRIES[index]), ORIGIN, [LOG.verifier])
    assert (opened.checkpoint.size, opened.signed_by, opened.cosigned) == (300, (LOG.verifier,), ())


def test_cosignatures_travel_with_the_proof() -> None:
    opened = checkpoint.open_signed(SIGNED.encode(), ORIGIN, [LOG.verifier])
    cosigned = SIGNED.signed(checkpoint.cosign(opened, AUDITOR, 1_700_000_000)).encode()
    found = proof.verify(replace(_proof(7), checkpoint=cosigned), LEAVES[7], ORIGIN, [LOG.verifier], [AUDITOR.verifier])
    assert found.cosigned == ((AUDITOR.verifier, 1_700_000_000),)


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda p: (p, merkle.leaf_hash(b"entry 8")), "record.tlog-proof: inclusion proof of leaf 7 .* Either the ent"),
        (lambda p: (replace(p, index=8), LEAVES[7]), "inclusion proof of leaf 8 in a tree of 300: expected root"),
        (lambda p: (replace(p, index=300), LEAVES[7]), "the tree has no such leaf"),
        (lambda p: (replace(p, hashes=p.hashes[:-1]), LEAVES[7]), "8 hashes are fewer than lead"),
        (lambda p: (replace(p, hashes=(*p.hashes, ONE)), LEAVES[7]), "10 hashes are more than lead"),
        (
            lambda p: (replace(p, checkpoint=p.checkpoint.replace(b"\n300\n", b"\n301\n")), LEAVES[7]),
            r"record.tlog-proof, its checkpoint: the signature by example.com/log\+\w+ is not of this text",
        ),
        (lambda p: (replace(p, checkpoint=b""), LEAVES[7]), "its checkpoint: expected a text, a blank line"),
    ],
)
def test_what_is_not_proven(alter: Callable[[Proof], tuple[Proof, bytes]], reason: str) -> None:
    altered, leaf = alter(_proof(7))
    with pytest.raises(Damaged, match=reason):
        proof.verify(altered, leaf, ORIGIN, [LOG.verifier], what="record.tlog-proof")


def test_proofs_of_other_logs_and_by_other_keys() -> None:
    other = note.parse_skey(note.skey(ORIGIN, ED25519, b"o" * 32)).verifier
    for origin, key in (("example.com/other", LOG.verifier), (ORIGIN, other)):
        with pytest.raises(Damaged, match="its checkpoint: expected"):
            proof.verify(_proof(7), LEAVES[7], origin, [key])
    with pytest.raises(UsageError, match="a log signs with kind 0x01"):
        proof.verify(_proof(7), LEAVES[7], ORIGIN, [AUDITOR.verifier])


HASH = encode_base64(ONE)
FORM = "expected the lines `c2sp.org/tlog-proof@v1`, "


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("wrong-header\nindex 0\n\ncheckpoint\n", FORM + ".* found b'wrong-header"),
        ("c2sp.org/tlog-proof@v2\nindex 0\n\ncheckpoint\n", FORM),
        ("c2spXorg/tlog-proof@v1\nindex 0\n\ncheckpoint\n", FORM),
        ("", FORM),
        ("c2sp.org/tlog-proof@v1\n\n\ncheckpoint\n", FORM),
        ("c2sp.org/tlog-proof@v1\nindex 0\ncheckpoint\n", FORM),
        ("c2sp.org/tlog-proof@v1\nindex 0", FORM),
        ("c2sp.org/tlog-proof@v1\nextra\nindex 0\n\ncheckpoint\n", FORM),
        ("c2sp.org/tlog-proof@v1\nextra \nindex 0\n\ncheckpoint\n", FORM),
        (f"c2sp.org/tlog-proof@v1\nindex 0\nextra QQ==\n{HASH}\n\ncheckpoint\n", FORM),
        (f"c2sp.org/tlog-proof@v1\nindex 0\n{HASH} \n\ncheckpoint\n", FORM),
        (f"c2sp.org/tlog-proof@v1\r\nindex 0\r\n{HASH}\r\n\ncheckpoint\n", FORM),
        ("c2sp.org/tlog-proof@v1\nindex é\n\ncheckpoint\n", FORM),
        ("c2sp.org/tlog-proof@v1\nextra !!notbase64!!\nindex 0\n\ncheckpoint\n", "an index and hashes in base64"),
        ("c2sp.org/tlog-proof@v1\nindex notanumber\n\ncheckpoint\n", "not a decimal from 0"),
        ("c2sp.org/tlog-proof@v1\nindex -5\n\ncheckpoint\n", "not a decimal from 0"),
        ("c2sp.org/tlog-proof@v1\nindex 05\n\ncheckpoint\n", "not a decimal from 0"),
        ("c2sp.org/tlog-proof@v1\nindex 9223372036854775808\n\ncheckpoint\n", "not a decimal from 0"),
        ("c2sp.org/tlog-proof@v1\nindex 0\n!!notbase64!!\n\ncheckpoint\n", "an index and hashes in base64"),
        (f"c2sp.org/tlog-proof@v1\nindex 0\n{encode_base64(bytes(64))}\n\ncheckpoint\n", "hashes of 32 bytes"),
        ("c2sp.org/tlog-proof@v1\nindex 0\n" + f"{HASH}\n" * 64 + "\ncheckpoint\n", "64 hashes: expected at most 63"),
    ],
)
def test_files_that_are_no_proof(text: str, reason: str) -> None:
    with pytest.raises(Damaged, match=f"record.tlog-proof: .*{reason}"):
        proof.parse(text.encode(), "record.tlog-proof")


def test_what_no_proof_can_hold() -> None:
    for index, hashes in ((-1, ()), (2**63, ()), (0, (b"",)), (0, (ONE,) * 64)):
        with pytest.raises(ValueError, match="expected"):
            Proof(index, hashes, b"")


@given(
    st.integers(0, 2**63 - 1),
    st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(tuple),
    st.binary(max_size=99),
    st.binary(max_size=99),
)
def test_a_proof_comes_back_from_its_file(index: int, hashes: tuple[bytes, ...], signed: bytes, extra: bytes) -> None:
    made = Proof(index, hashes, signed, extra)
    assert proof.parse(made.encode()) == made


@settings(deadline=None)
@given(st.integers(0, 299), st.data())
def test_one_bit_flipped_and_the_file_is_refused(index: int, data: st.DataObject) -> None:
    content = _proof(index).encode()
    proof.verify(proof.parse(content), LEAVES[index], ORIGIN, [LOG.verifier])
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Damaged):
        proof.verify(proof.parse(bytes(flipped)), LEAVES[index], ORIGIN, [LOG.verifier])


def test_every_single_bit_of_one_file_and_of_its_leaf() -> None:
    content = _proof(256).encode()
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged):
            proof.verify(proof.parse(bytes(flipped)), LEAVES[256], ORIGIN, [LOG.verifier])
    for bit in range(256):
        leaf = (int.from_bytes(LEAVES[256], "big") ^ 1 << bit).to_bytes(32, "big")
        with pytest.raises(Damaged):
            proof.verify(proof.parse(content), leaf, ORIGIN, [LOG.verifier])

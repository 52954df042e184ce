"""c2sp.org/tlog-checkpoint and tlog-cosignature: examples, checkpoints of public logs, and a witness's judgement."""

from __future__ import annotations

import re
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tlog_scales.signing import Vkey
from tlog_scales.tlog import Checkpoint as TheirCheckpoint

from retention import merkle
from retention.errors import Damaged, UsageError
from retention.tlog import checkpoint, note
from retention.tlog.canonical import decode_base64
from retention.tlog.checkpoint import Checkpoint, Finding
from retention.tlog.note import COSIGNATURE, ED25519

# c2sp.org/tlog-cosignature. The log's signature in it was made by sum.golang.org over its own name.
EXAMPLE = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)
GO = EXAMPLE.replace("— example.com/behind-the-sofa", "— sum.golang.org").replace(
    "example.com/behind-the-sofa\n", "go.sum database tree\n"
)
GO_KEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
# A Certificate Transparency log with its RFC 6962 signature (kind 0x05), its own (0x01), and four public witnesses
ARCHE_NAME = "arche2025h1.staging.ct.transparency.dev"
ARCHE_SIGNATURES = [
    (
        ARCHE_NAME,
        "zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5"
        "zRNZ55lvGt0=",
    ),
    (
        ARCHE_NAME,
        "ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=",
    ),
    (
        "transparency.dev/DEV:witness-little-garden",
        "2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4AscylP3v7sEodkRAErumC2q44vdgJY096st5BQ==",
    ),
    (
        "witness1.smartit.nu/witness1",
        "pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJbqmNWVuE0tgh0XwzdZsDsUAQ==",
    ),
    (
        "remora.n621.de",
        "2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==",
    ),
    (
        "witness.stagemole.eu",
        "Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUFucgKi7lI7cUiOvKFYe/TmN9DAg==",
    ),
]
ARCHE = f"{ARCHE_NAME}\n1432088532\nU7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=\n\n" + "".join(
    f"— {name} {value}\n" for name, value in ARCHE_SIGNATURES
)
ARCHE_KEY = "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
ARCHE_WITNESSES = [
    "transparency.dev/DEV:witness-little-garden+d8042a87+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM",
    "witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO",
    "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv",
]
# The requests of litewitness's tests (filippo.io/torchwood, internal/witness/witness_test.go): size, root, signature
SIGSUM = "sigsum.org/v1/tree/4d6d8825a6bb689d459628312889dfbb0bcd41b5211d9e1ce768b0ff0309e562"
SIGSUM_PUBLIC = bytes.fromhex("ffdc2d4d98e4124d3feaf788c0c2f9abfd796083d1f0495437f302ec79cf100f")
SIGSUM_HEADS = {
    1: (
        "KgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "UgIom7fPZTqpxWWhyjWduBvTvGVqsokMbqTArsQilegKoFBJQjUFAmQ0+YeSPM3wfUQMFSzVnnNuWRTYrajXpNUbIQY=",
    ),
    3: (
        "RcCI1Nk56ZcSmIEfIn0SleqtV7uvrlXNccFx595Iwl0=",
        "UgIom2VbtIcdFbwFAy1n7s6IkAxIY6J/GQOTuZF2ORV39d75cbAj2aQYwyJre36kezNobZs4SUUdrcawfAB8WVrx6go=",
    ),
    5: (
        "QrtXrQZCCvpIgsSmOsah7HdICzMLLyDfxToMql9WTjY=",
        "UgIomw/EOJmWi0i1FQsOj+etB7F8IccFam/jgd6wzRns4QPVmyEZtdvl1U2KEmLOZ/ASRcWJi0tW90dJWAShei7sDww=",
    ),
}
SIGSUM_PROOFS = {  # from size 1
    3: ["KgEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "KgIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="],
    5: [
        "KgEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "+fUDV+k970B4I3uKrqJM4aP1lloPZP8mvr2Z4wRw2LI=",
        "KgQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    ],
}

ORIGIN = "example.com/log"
LOG = note.parse_skey(note.skey(ORIGIN, ED25519, b"l" * 32))
AUDITOR = note.parse_skey(note.skey("auditor.example/witness", COSIGNATURE, b"a" * 32))
LEAVES = [sha256(bytes([n])).digest() for n in range(40)]


def _head(size: int, leaves: list[bytes] = LEAVES) -> Checkpoint:
    return Checkpoint(ORIGIN, size, merkle.tree_root(leaves[:size]))


def _proof(first: int, second: int, leaves: list[bytes] = LEAVES) -> list[bytes]:
    return merkle.consistency_proof(
        first, second, lambda level, n: merkle.tree_root(leaves[n << level : n + 1 << level])
    )


def _sigsum(size: int) -> checkpoint.Opened:
    key = note.Verifier(SIGSUM, ED25519, SIGSUM_PUBLIC)
    root, signature = SIGSUM_HEADS[size]
    return checkpoint.open_signed(f"{SIGSUM}\n{size}\n{root}\n\n— {SIGSUM} {signature}\n".encode(), SIGSUM, [key])


def test_the_examples_of_the_specification_come_back_byte_for_byte() -> None:
    parsed = note.parse(EXAMPLE.encode())
    head = checkpoint.parse(parsed.text)
    assert (head.origin, head.size, head.root[:3].hex()) == ("example.com/behind-the-sofa", 20852163, "0ac518")
    assert (head.text, parsed.encode()) == (parsed.text, EXAMPLE.encode())
    cosignature = parsed.signatures[1].value
    assert (len(cosignature), int.from_bytes(cosignature[:8], "big")) == (72, 1679315147)  # as its text says


def test_the_message_of_a_cosignature_is_the_one_of_the_specification() -> None:
    expected = (
        "cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n"
        "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )
    assert note.cosigned_message(note.parse(EXAMPLE.encode()).text, 1679315147).decode() == expected


def test_checkpoints_of_public_logs_and_their_witnesses() -> None:
    go = checkpoint.open_signed(GO.encode(), "go.sum database tree", [note.parse_vkey(GO_KEY)])
    assert (go.checkpoint.size, go.signed_by[0].name, go.cosigned) == (20852163, "sum.golang.org", ())
    arche = checkpoint.open_signed(
        ARCHE.encode(),
        ARCHE_NAME,
        [note.parse_vkey(ARCHE_KEY)],
        [note.parse_vkey(key) for key in ARCHE_WITNESSES],
    )
    assert arche.checkpoint.size == 1432088532
    assert [(verifier.vkey, time) for verifier, time in arche.cosigned] == [(k, 1779573024) for k in ARCHE_WITNESSES]


@pytest.mark.parametrize("vkey", ARCHE_WITNESSES)
def test_a_cosignature_is_of_one_time_and_one_text(vkey: str) -> None:
    witness = note.parse_vkey(vkey)
    parsed = note.parse(ARCHE.encode())
    value = next(s.value for s in parsed.signatures if s.key_id == witness.key_id)
    assert witness.verifies(parsed.text, value)
    assert not witness.verifies(parsed.text.replace("1432088532", "1432088533"), value)
    assert not witness.verifies(parsed.text + "extension\n", value)
    assert not witness.verifies(parsed.text, bytes([*value[:7], value[7] ^ 1, *value[8:]]))
    assert not witness.verifies(parsed.text, value[:8])
    assert not witness.verifies(parsed.text, value[:4])


def test_signing_and_cosigning() -> None:
    signed = checkpoint.sign(_head(7), LOG)
    opened = checkpoint.open_signed(signed.encode(), ORIGIN, [LOG.verifier], [AUDITOR.verifier])
    assert (opened.checkpoint, opened.signed_by, opened.cosigned) == (_head(7), (LOG.verifier,), ())
    both = signed.signed(checkpoint.cosign(opened, AUDITOR, 1_700_000_000))
    again = both.signed(checkpoint.cosign(opened, AUDITOR, 1_700_000_060))
    assert len(again.signatures) == 2
    opened = checkpoint.open_signed(again.encode(), ORIGIN, [LOG.verifier], [AUDITOR.verifier])
    assert opened.cosigned == ((AUDITOR.verifier, 1_700_000_060),)
    theirs = TheirCheckpoint.from_text(again.encode().decode())
    for verifier in (LOG.verifier, AUDITOR.verifier):
        theirs.verify(Vkey.from_string(verifier.vkey))


def test_a_cosignature_replayed_on_another_checkpoint_is_found() -> None:
    older, newer = checkpoint.sign(_head(7), LOG), checkpoint.sign(_head(8), LOG)
    old = checkpoint.cosign(checkpoint.open_signed(older.encode(), ORIGIN, [LOG.verifier]), AUDITOR, 1_700_000_000)
    with pytest.raises(Damaged, match=r"the signature by auditor\.example/witness\+.* is not of this text"):
        checkpoint.open_signed(newer.signed(old).encode(), ORIGIN, [LOG.verifier], [AUDITOR.verifier])


def test_the_log_itself_must_have_signed() -> None:
    opened = checkpoint.open_signed(checkpoint.sign(_head(7), LOG).encode(), ORIGIN, [LOG.verifier])
    alone = note.Note(_head(7).text, (checkpoint.cosign(opened, AUDITOR, 1),))
    with pytest.raises(Damaged, match=r"cosigned, but not signed by example\.com/log\+"):
        checkpoint.open_signed(alone.encode(), ORIGIN, [LOG.verifier], [AUDITOR.verifier])


def test_another_origin_or_another_key_is_refused() -> None:
    data = checkpoint.sign(_head(7), LOG).encode()
    with pytest.raises(
        Damaged, match=r"ledger/checkpoint: expected the log 'example\.com/other', found 'example\.com/l"
    ):
        checkpoint.open_signed(data, "example.com/other", [LOG.verifier], what="ledger/checkpoint")
    swapped = note.parse_skey(note.skey(ORIGIN, ED25519, b"m" * 32)).verifier
    with pytest.raises(Damaged, match=r"expected a signature by example\.com/log\+"):
        checkpoint.open_signed(data, ORIGIN, [swapped])
    assert checkpoint.open_signed(data, ORIGIN, [swapped, LOG.verifier]).signed_by == (LOG.verifier,)  # rotated


def test_keys_are_used_for_what_they_are() -> None:
    signed = checkpoint.sign(_head(7), LOG)
    opened = checkpoint.open_signed(signed.encode(), ORIGIN, [LOG.verifier])
    for use in (
        lambda: checkpoint.open_signed(signed.encode(), ORIGIN, [AUDITOR.verifier]),
        lambda: checkpoint.open_signed(signed.encode(), ORIGIN, [LOG.verifier], [LOG.verifier]),
        lambda: checkpoint.sign(_head(7), AUDITOR),
        lambda: checkpoint.cosign(opened, LOG, 1),
    ):
        with pytest.raises(UsageError, match=r"a (log|witness) signs with kind 0x0[14], found 0x0[14]"):
            use()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Log\n123\n", "not enough values"),
        ("\n123\n{root}\n", "origin '': expected 1 to 255 bytes"),
        ("L" * 256 + "\n123\n{root}\n", "expected 1 to 255 bytes"),
        ("é" * 128 + "\n123\n{root}\n", "expected 1 to 255 bytes"),
        ("Log\n123\n{root}", "the last line does not end"),
        ("", "the last line does not end"),
        ("Log\nbananas\n{root}\n", "not a decimal"),
        ("Log\n-34\n{root}\n", "not a decimal"),
        ("Log\n0123\n{root}\n", "not a decimal"),
        ("Log\n9223372036854775808\n{root}\n", "not a decimal"),
        ("Log\n123\nYmFuYW5hcw==\n", "root of 7 bytes: expected 32"),
        ("Log\n123\nThisIsn'tBase64\n", "(base64|padding)"),
        ("Log\n123\n {root}\n", "(base64|data)"),
        ("Log\n0\n{root}\n", "of size 0: expected e3b0c442"),
        ("Log\n123\n{root}\n\n", "a line each, not empty"),
        ("Log\n123\n{root}\none\n\ntwo\n", "a line each, not empty"),
    ],
)
def test_texts_that_are_no_checkpoint(text: str, reason: str) -> None:
    with pytest.raises(Damaged, match=f"checkpoint: expected lines with origin, size and base64 .*{reason}"):
        checkpoint.parse(text.replace("{root}", "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="))


def test_what_no_checkpoint_can_hold() -> None:
    for wrong in (("a\nb", 1, bytes(32)), ("a", -1, bytes(32)), ("a", 2**63, bytes(32)), ("a", 1, bytes(31))):
        with pytest.raises(ValueError, match="expected"):
            Checkpoint(*wrong)
    with pytest.raises(ValueError, match="a line each"):
        Checkpoint("a", 1, bytes(32), ("one\ntwo",))


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60),
    st.integers(1, 2**63 - 1),
    st.binary(min_size=32, max_size=32),
    st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=9), max_size=3),
)
def test_a_checkpoint_comes_back_from_its_text(origin: str, size: int, root: bytes, extensions: list[str]) -> None:
    head = Checkpoint(origin, size, root, tuple(extensions))
    assert checkpoint.parse(head.text) == head
    assert checkpoint.parse(note.parse(checkpoint.sign(head, LOG).encode()).text) == head


def test_an_empty_log_has_a_checkpoint() -> None:
    assert checkpoint.parse(_head(0).text).root == merkle.EMPTY


@settings(deadline=None)
@given(st.data())
def test_no_cosigned_checkpoint_with_one_bit_flipped_is_as_it_was(data: st.DataObject) -> None:
    """A flipped name or id is an unknown key, which is ignored: then that signature is missing."""
    signed = checkpoint.sign(_head(9), LOG)
    keys = ([LOG.verifier], [AUDITOR.verifier])
    opened = checkpoint.open_signed(signed.encode(), ORIGIN, *keys)
    message = signed.signed(checkpoint.cosign(opened, AUDITOR, 1_700_000_000)).encode()
    bit = data.draw(st.integers(0, 8 * len(message) - 1))
    flipped = bytearray(message)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        found = checkpoint.open_signed(bytes(flipped), ORIGIN, *keys)
    except Damaged:
        return
    assert found.checkpoint == _head(9)
    assert found.cosigned == ()


# ---- the witness


def test_the_judgement_of_a_published_witness() -> None:
    heads = {size: _sigsum(size).checkpoint for size in SIGSUM_HEADS}
    proofs = {size: [decode_base64(line) for line in lines] for size, lines in SIGSUM_PROOFS.items()}
    assert checkpoint.judge(None, heads[1], []).finding is Finding.FIRST
    assert checkpoint.judge(heads[1], heads[3], proofs[3]).finding is Finding.EXTENDS
    assert checkpoint.judge(heads[1], heads[5], proofs[5]).finding is Finding.EXTENDS
    late = checkpoint.judge(heads[5], heads[3], proofs[3])  # the race of that test
    assert (late.accepted, late.finding) == (False, Finding.ROLLED_BACK)


FORKED = [*LEAVES[:3], sha256(b"forged").digest(), *LEAVES[4:]]
EMPTY_HEAD = Checkpoint(ORIGIN, 0, merkle.EMPTY)


@pytest.mark.parametrize(
    ("remembered", "new", "proof", "finding", "reason"),
    [
        (None, _head(8), [], Finding.FIRST, "first checkpoint seen of 'example.com/log', size 8"),
        (None, EMPTY_HEAD, [], Finding.FIRST, "size 0"),
        (None, _head(8), [LEAVES[0]], Finding.INCONSISTENT, "expected no hashes, found 1"),
        (EMPTY_HEAD, _head(8), [], Finding.EXTENDS, "size 8 extends size 0"),
        (EMPTY_HEAD, EMPTY_HEAD, [], Finding.UNCHANGED, "size 0"),
        (_head(5), _head(8), _proof(5, 8), Finding.EXTENDS, "size 8 extends size 5"),
        (_head(8), _head(8), [], Finding.UNCHANGED, "remembered, size 8"),
        (_head(8), _head(8), [LEAVES[0]], Finding.INCONSISTENT, "expected no hashes, found 1"),
        (_head(8), _head(5), [], Finding.ROLLED_BACK, "refusing size 5 after size 8: an old checkpoint is replayed"),
        (_head(8), EMPTY_HEAD, [], Finding.ROLLED_BACK, "refusing size 0 after size 8"),
        (_head(8), _head(8, FORKED), [], Finding.FORKED, "refusing a fork: size 8 had root f36bcde6"),
        (_head(5), _head(8), [], Finding.INCONSISTENT, "refusing what is not shown to extend size 5: .*no hashes"),
        (_head(5), _head(8), _proof(4, 8), Finding.INCONSISTENT, "consistency proof from size 5 to 8"),
        (_head(5), _head(8), _proof(5, 9), Finding.INCONSISTENT, "consistency proof from size 5 to 8"),
        (_head(5), _head(8, FORKED), _proof(5, 8), Finding.INCONSISTENT, "expected the second root"),
        (_head(5), _head(8, FORKED), _proof(5, 8, FORKED), Finding.INCONSISTENT, "expected the first root"),
        (_head(5), Checkpoint("other", 8, _head(8).root), _proof(5, 8), Finding.FOREIGN, "refusing another log: expe"),
    ],
)
def test_what_a_witness_cosigns(
    remembered: Checkpoint | None, new: Checkpoint, proof: list[bytes], finding: Finding, reason: str
) -> None:
    verdict = checkpoint.judge(remembered, new, proof)
    assert verdict.finding is finding
    assert verdict.accepted == (finding in {Finding.FIRST, Finding.EXTENDS, Finding.UNCHANGED})
    assert verdict.accepted != verdict.reason.startswith("refusing ")
    assert re.search(reason, verdict.reason)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 39))
def test_a_witness_accepts_what_extends_and_nothing_else(first: int, second: int, forged: int) -> None:
    remembered, proof = _head(first), _proof(min(first, second), max(first, second))
    assert checkpoint.judge(remembered, _head(second), proof).accepted == (second >= first)
    leaves = [*LEAVES[:forged], sha256(b"forged").digest(), *LEAVES[forged + 1 :]]
    other, lie = _head(second, leaves), _proof(min(first, second), max(first, second), leaves)
    extends = first <= second and (forged >= first or forged >= second)
    assert checkpoint.judge(remembered, other, lie).accepted == extends

"""c2sp.org/signed-note: the vectors of the specification and of golang.org/x/mod/sumdb/note; keys, limits, mangling."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tlog_scales.signing import NoteSignature, PlainEd25519Signer, Vkey

from retention.errors import Damaged, Refused, UsageError
from retention.tlog import note
from retention.tlog.canonical import decode_base64, decode_number, encode_base64
from retention.tlog.note import COSIGNATURE, ED25519, Note, Signature, Signer, Verifier

# golang.org/x/mod/sumdb/note, note_test.go
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
# c2sp.org/signed-note: its test vector and its example
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE = (
    "This is an example message.\n\n— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
POEM = (
    "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n"
    "— quasimodo.example/salvatore "
    "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
)

peter, enoch = note.parse_vkey(PETER), note.parse_vkey(ENOCH)


def _opened(message: str, *known: Verifier) -> list[str]:
    parsed = note.parse(message.encode())
    assert parsed.encode() == message.encode()
    return [verifier.name for verifier, _ in note.verify(parsed, known)]


def _mangled(text: str) -> list[str]:
    """Every part of the text, and the text with each character one higher: what Go's tests try."""
    parts = [text[i:j] for i in range(len(text) + 1) for j in range(i + 1, len(text) + 1) if (i, j) != (0, len(text))]
    return parts + [text[:i] + chr(ord(c) + 1) + text[i + 1 :] for i, c in enumerate(text)]


@pytest.mark.parametrize("vkey", [PETER, ENOCH, EXAMPLE_KEY])
def test_published_verifier_keys(vkey: str) -> None:
    verifier = note.parse_vkey(vkey)
    assert (verifier.vkey, str(verifier), verifier.kind) == (vkey, "+".join(vkey.split("+")[:2]), ED25519)


def test_a_cosigner_key_that_is_in_use() -> None:
    """remora.n621.de, a public witness; in transparency-dev/formats, note_cosigv1_test.go."""
    verifier = note.parse_vkey("remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2")
    assert (verifier.kind, verifier.key_id.hex()) == (COSIGNATURE, "da77ade7")


@pytest.mark.parametrize(
    ("parse", "key"), [(note.parse_vkey, PETER), (note.parse_skey, PETER_PRIVATE)], ids=["vkey", "skey"]
)
def test_no_mangled_key_is_accepted(parse: Callable[[str], object], key: str) -> None:
    parse(key)
    for mangled in _mangled(key):
        with pytest.raises(UsageError):
            parse(mangled)


@pytest.mark.parametrize(
    ("vkey", "found"),
    [
        ("PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==", "bits that are not used"),
        ("PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "kind 0x65: expected 0x01"),
        ("PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "its id is c74f20a3, found 'C74F20A3'"),
        ("PeterNeumann+c74f20a3+AQ==", "a key of 0 bytes, expected 32"),
        ("PeterNeumann+c74f20a3+", "index out of range"),
        ("Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "name 'Peter Neumann'"),
        ("+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "name ''"),
        ("PeterNeumann", "not enough values"),
    ],
)
def test_verifier_keys_that_cannot_be(vkey: str, found: str) -> None:
    with pytest.raises(UsageError, match=f"expected NAME.ID.BASE64 of an Ed25519 key .*({found})"):
        note.parse_vkey(vkey)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\u2003b", "a\u0085b", "a\nb", "a\x01b"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ValueError, match="expected characters, none of them a space or a plus"):
        Verifier(name, ED25519, bytes(32))


@pytest.mark.parametrize("text", [" " + PETER_PRIVATE, PETER_PRIVATE + "\n", PETER, ""])
def test_what_is_no_private_key(text: str) -> None:
    with pytest.raises(UsageError, match="signer key: expected one line PRIVATE"):
        note.parse_skey(text)


def test_a_private_key_never_stands_in_a_message() -> None:
    for parse in (note.parse_vkey, note.parse_skey):
        for text in (PETER_PRIVATE + "x", PETER_PRIVATE.replace("+c74f20a3", ""), PETER_PRIVATE.replace("c7", "c8")):
            with pytest.raises(UsageError) as caught:
                parse(text)
            assert "AYEKFALV" not in str(caught.value)
            assert "EMzD1QIDr" not in str(caught.value)


def test_the_published_private_key_makes_the_published_note() -> None:
    signer = note.parse_skey(PETER_PRIVATE)
    assert signer.verifier == peter
    signed = Note(TEXT, ()).signed(note.sign(TEXT, signer))
    assert signed.encode().decode() == TEXT + "\n" + PETER_LINE
    replaced = Note(TEXT, (Signature("PeterNeumann", peter.key_id, b"BAD"),)).signed(note.sign(TEXT, signer))
    assert replaced == signed


def test_keys_are_made_of_32_random_bytes() -> None:
    for kind in (ED25519, COSIGNATURE):
        text = note.skey("example.com/log", kind, bytes(range(32)))
        signer = note.parse_skey(text)
        assert text.startswith(f"PRIVATE+KEY+{signer.verifier}+")
        assert note.parse_vkey(signer.verifier.vkey) == signer.verifier
        assert signer.verifier.kind == kind
    with pytest.raises(ValueError, match="a key of 31 bytes, expected 32"):
        note.skey("example.com/log", ED25519, bytes(31))


def test_published_notes() -> None:
    message = TEXT + "\n" + PETER_LINE + ENOCH_LINE
    assert _opened(message, peter) == ["PeterNeumann"]
    assert _opened(message, peter, enoch) == ["PeterNeumann", "EnochRoot"]
    assert _opened(message, enoch, peter) == ["PeterNeumann", "EnochRoot"]  # in the order of the note
    assert _opened(EXAMPLE, note.parse_vkey(EXAMPLE_KEY)) == ["example.com/foo"]
    with pytest.raises(Damaged, match=r"expected a signature by a known key, found PeterNeumann\+c74f20a3, EnochRoot"):
        _opened(message)
    with pytest.raises(Damaged, match=r"expected a signature by EnochRoot\+af0cfe78, found PeterNeumann\+c74f20a3"):
        _opened(TEXT + "\n" + PETER_LINE, enoch)


def test_the_text_ends_at_the_last_blank_line() -> None:
    poem = note.parse(POEM.encode())
    assert poem.text.endswith("sole:\n\ned è subito sera.\n")
    assert [(s.name, s.key_id.hex(), len(s.value)) for s in poem.signatures] == [
        ("quasimodo.example/salvatore", "367ba04b", 64)
    ]
    assert poem.encode() == POEM.encode()
    for text in ("a\n", "a\n\n", "\n", "\n\n\n"):
        assert note.parse((text + "\n" + PETER_LINE).encode()).text == text


def test_another_key_with_the_same_name_or_the_same_id_is_another_key() -> None:
    value = decode_base64(PETER_LINE.split(" ")[2].strip())
    for line in (Signature("PeterNeumann", b"\0\0\0\1", value[4:]), Signature("CarmenSandiego", peter.key_id, b"x")):
        assert _opened(TEXT + "\n" + str(line) + PETER_LINE, peter) == ["PeterNeumann"]
        with pytest.raises(Damaged, match="expected a signature by"):
            _opened(TEXT + "\n" + str(line), peter)


def test_one_bad_signature_of_a_known_key_condemns_the_note() -> None:
    longer = PETER_LINE[:60] + "ABCD" + PETER_LINE[60:]
    for lines in (longer, PETER_LINE + longer, longer + PETER_LINE, ENOCH_LINE + longer):
        with pytest.raises(Damaged, match=r"the signature by PeterNeumann\+c74f20a3 is not of this text"):
            _opened(TEXT + "\n" + lines, peter, enoch)
    assert _opened(TEXT + "\n" + longer + ENOCH_LINE, enoch) == ["EnochRoot"]  # unknown keys are ignored


def test_signatures_and_keys_given_twice() -> None:
    assert _opened(TEXT + "\n" + PETER_LINE + PETER_LINE + ENOCH_LINE + ENOCH_LINE, peter, peter) == ["PeterNeumann"]


def test_two_keys_with_one_name_and_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Verifier, "key_id", property(lambda _: b"\xc7\x4f\x20\xa3"))
    with pytest.raises(UsageError, match="have one name and id"):
        note.verify(note.parse((TEXT + "\n" + PETER_LINE).encode()), [peter, Verifier(peter.name, ED25519, bytes(32))])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (TEXT, "expected a text, a blank line and signature lines"),
        (TEXT + "\n", "expected a text, a blank line and signature lines"),
        (TEXT + "\n" + PETER_LINE[:-1], "each ended by a newline"),
        (TEXT[:-1] + PETER_LINE, "a blank line"),
        ("\n" + PETER_LINE, "expected a text"),
        ("\x01" + TEXT + "\n" + PETER_LINE, r"found '\\x01' at character 0"),
        (TEXT + "\n" + PETER_LINE[:-1] + "\r\n", r"found '\\r' at character"),
        (TEXT + "\n" + PETER_LINE + "Unexpected line.\n", "line 5: expected `— NAME BASE64`.*found 'Unexpected line.'"),
        (TEXT + "\n" + PETER_LINE.replace("PeterNeumann", "Bad Name"), "line 4: expected `— NAME BASE64`"),
        (TEXT + "\n" + PETER_LINE.replace("PeterNeumann", "Bad+Name"), "line 4: expected"),
        (TEXT + "\n" + PETER_LINE.replace("—", "-"), "line 4: expected"),
        (TEXT + "\n" + PETER_LINE.replace("— ", "—"), "line 4: expected"),
        (TEXT + "\n" + PETER_LINE.replace("nAM=", "nAN="), "line 4: expected"),  # a bit that base64 does not use
        (TEXT + "\n" + PETER_LINE.replace("nAM=", "nAM"), "line 4: expected"),
        (TEXT + "\n" + PETER_LINE[:-1] + " \n", "line 4: expected"),
        (TEXT + "\n— PeterNeumann x08gow==\n", "line 4: expected"),  # a key id and nothing after it
        (TEXT + "\n" + PETER_LINE * 101, "101 signatures, a note has at most 100"),
        ("x" * 1_000_000 + "\n\n" + PETER_LINE, "1000112 bytes, a note has at most 1000000"),
    ],
)
def test_notes_that_cannot_be(message: str, reason: str) -> None:
    with pytest.raises(Damaged, match=f"ledger/checkpoint.*{reason}"):
        note.parse(message.encode(), "ledger/checkpoint")


def test_a_note_is_utf_8() -> None:
    with pytest.raises(Damaged, match="expected UTF-8, found another byte at 3"):
        note.parse(b"abc\xff" + EXAMPLE.encode())
    with pytest.raises(Damaged, match="expected UTF-8, found another byte at 0"):
        note.parse(b"\xed\xa0\x80" + EXAMPLE.encode())  # a surrogate


def test_a_hundred_signatures_and_what_is_no_line_end() -> None:
    assert _opened(TEXT + "\n" + PETER_LINE * 100, peter) == ["PeterNeumann"]
    odd = "one\u2028line\u0085only\n"
    assert note.parse((odd + "\n" + PETER_LINE).encode()).text == odd


@pytest.mark.parametrize("text", ["abc", "", "a\tb\n", "a\r\n"])
def test_texts_that_cannot_be_signed(text: str) -> None:
    with pytest.raises(ValueError, match="ends in a newline"):
        note.sign(text, note.parse_skey(PETER_PRIVATE))


def test_each_kind_of_key_signs_its_own_message() -> None:
    log = note.parse_skey(note.skey("a", ED25519, bytes(32)))
    witness = note.parse_skey(note.skey("a", COSIGNATURE, bytes(32)))
    assert log.verifier.public == witness.verifier.public
    made = note.sign("x\n", witness, 1679315147)
    assert made.value[:8] == (1679315147).to_bytes(8, "big")
    assert not log.verifier.verifies("x\n", made.value[8:])
    assert log.verifier.verifies("cosignature/v1\ntime 1679315147\nx\n", made.value[8:])  # what it signed
    with pytest.raises(ValueError, match="signs no time"):
        note.sign("x\n", log, 1)
    for time in (None, -1, 2**63):
        with pytest.raises(ValueError, match="needs its time in Unix seconds"):
            note.sign("x\n", witness, time)


def test_a_time_beyond_2_63_verifies_never() -> None:
    witness = note.parse_skey(note.skey("a", COSIGNATURE, bytes(32)))
    time = 2**63
    value = time.to_bytes(8, "big") + witness.sign(note.cosigned_message("x\n", time))
    assert not witness.verifier.verifies("x\n", value)


def test_a_service_that_signs_with_another_key_is_refused() -> None:
    """A key management service that was pointed at another key: nothing may be published with it."""
    swapped = Signer(peter, note.parse_skey(note.skey("x", ED25519, bytes(32))).sign)
    with pytest.raises(Refused, match=r"refusing to use the signature by PeterNeumann\+c74f20a3"):
        note.sign(TEXT, swapped)


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.just("\n"), max_size=40).map(lambda t: t + "\n")


@settings(deadline=None)
@given(TEXTS, st.binary(min_size=32, max_size=32), st.data())
def test_no_note_with_one_bit_flipped_verifies(text: str, seed: bytes, data: st.DataObject) -> None:
    signer = note.parse_skey(note.skey("example.com/log", ED25519, seed))
    message = Note(text, ()).signed(note.sign(text, signer)).encode()
    assert note.verify(note.parse(message), [signer.verifier])[0][0] == signer.verifier
    bit = data.draw(st.integers(0, 8 * len(message) - 1))
    flipped = bytearray(message)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Damaged):
        note.verify(note.parse(bytes(flipped)), [signer.verifier])


@given(st.binary(min_size=32, max_size=32))
def test_keys_and_signatures_are_those_of_the_other_implementation(seed: bytes) -> None:
    signer, theirs = (
        note.parse_skey(note.skey("example.com/log", ED25519, seed)),
        PlainEd25519Signer("example.com/log", seed),
    )
    assert vars(Vkey.from_string(signer.verifier.vkey)) == vars(theirs.vkey)
    line = NoteSignature.from_line(str(note.sign(TEXT, signer)).rstrip("\n"))
    assert Vkey.from_string(signer.verifier.vkey).match(line)
    theirs.key.public_key().verify(line.payload, TEXT.encode())


@given(st.binary(max_size=70))
def test_base64_has_one_form(value: bytes) -> None:
    assert decode_base64(encode_base64(value)) == value


@pytest.mark.parametrize("text", ["QR==", "QQ=", "QQ", "QQ==\n", " QQ==", "Q Q==", "QQ==QQ==", "-_==", "QQ==é", "="])
def test_what_is_no_base64(text: str) -> None:
    with pytest.raises(ValueError, match=".+"):
        decode_base64(text)


@pytest.mark.parametrize("text", ["", "00", "01", "-1", "+1", "1_000", " 1", "1\n", "٣", "1.0", str(2**63), "9" * 5000])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="not a decimal from 0 to 2"):
        decode_number(text)


def test_numbers() -> None:
    assert [decode_number(text) for text in ("0", "7", str(2**63 - 1))] == [0, 7, 2**63 - 1]

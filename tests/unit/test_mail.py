"""Messages and mailboxes."""

from __future__ import annotations

import base64
import time
from email.message import EmailMessage

import pytest

from ingest.extraction import mail as reader
from ingest.model import Limits
from tests.unit.office_files import HEBREW, codes, see

MAIL, MBOX = "message/rfc822", "application/mbox"


def test_a_message_with_everything() -> None:
    inner = EmailMessage()
    inner["Subject"] = "inner"
    inner.set_content("inside")
    message = EmailMessage()
    message["Subject"] = "נושא"
    message["From"] = "משה כהן <moshe@example.com>"
    message["To"] = 'a@example.com, "B, C" <b@example.com>'
    message["Cc"] = '"D, E" <d@example.com>'
    message["Date"] = "Thu, 02 Jan 2020 03:04:05 +0200"
    message["Message-ID"] = "<1@example.com>"
    message.set_content(HEBREW)
    message.add_alternative(f"<p>{HEBREW}</p>", subtype="html")
    message.add_attachment(b"%PDF-1.4", maintype="application", subtype="pdf", filename="../../חוזה.pdf")
    message.add_attachment(inner)
    message.add_attachment(b"x" * 100, maintype="image", subtype="png")
    *_, last = message.iter_parts()
    del last["Content-Disposition"]
    seen = see(reader, message.as_bytes(), MAIL)
    assert seen.metadata == {
        "title": "נושא",
        "from": "משה כהן <moshe@example.com>",
        "to": ["a@example.com", "B, C <b@example.com>"],
        "cc": ["D, E <d@example.com>"],
        "date": "2020-01-02T03:04:05+02:00",
        "message_id": "<1@example.com>",
        "parts": [
            "multipart/mixed",
            "multipart/alternative",
            "text/plain",
            "text/html",
            "application/pdf",
            "message/rfc822",
            "image/png",
        ],
        "attachments": ["חוזה.pdf", "part-6.eml"],
        "language": "he",
    }
    assert seen.text.strip() == HEBREW
    assert [child.name for child in seen.children] == ["חוזה.pdf", "part-6.eml"]
    assert seen.children[0].path.read_bytes() == b"%PDF-1.4"
    assert b"Subject: inner" in seen.children[1].path.read_bytes()
    assert not seen.findings


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"=?iso-8859-8-i?B?" + base64.b64encode("שלום".encode("cp1255")) + b"?=", "שלום"),
        (b"=?unknown-8bit?Q?=F9=EC=E5=ED?=", "שלום"),
        (b"=?utf-8?B?16k=?=\r\n =?utf-8?B?15w=?=", "של"),
        (b"=?utf-8?Q?=D7?= =?utf-8?Q?=A9?=", "ש"),  # one character over two words
        (b"=?utf-8?Q?a_b?= c =?utf-8*en?Q?d?=", "a b c d"),
        (b"folded\r\n\tline", "folded line"),
        ("שלום".encode(), "שלום"),
        (b"=?x?z?nonsense?= =?utf-8?B?!!!?=", "=?x?z?nonsense?="),
        (b"", ""),
    ],
)
def test_headers(raw: bytes, text: str) -> None:
    assert reader.decode_header(raw) == text


@pytest.mark.parametrize(
    ("header", "people"),
    [
        ("undisclosed-recipients:;", []),
        ("Team: a@x, B <b@x>; c@x", ["a@x", "B <b@x>", "c@x"]),
        ("a@x (A. B.)", ["A. B. <a@x>"]),
        ("<a@x>", ["a@x"]),
        ('"a@x" <a@x>', ["a@x"]),
        ("broken <a@x, b@y", ["broken <a@x, b@y"]),
        ("", []),
    ],
)
def test_people(header: str, people: list[str]) -> None:
    assert reader.addresses(header) == people


def test_raw_bytes_in_headers_and_body_follow_the_charset() -> None:
    words = "שלום לכולם".encode("cp1255")
    data = b"Subject: " + words + b"\r\nContent-Type: text/plain; charset=iso-8859-8-i\r\n\r\n" + words
    seen = see(reader, data, MAIL)
    assert (seen.metadata["title"], seen.text) == ("שלום לכולם", "שלום לכולם")
    name = (
        b'Content-Type: application/pdf\r\nContent-Disposition: attachment; filename="' + words + b'.pdf"\r\n\r\n%PDF'
    )
    assert see(reader, name, MAIL).metadata["attachments"] == ["שלום לכולם.pdf"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b"no header at all",
        b"Content-Type: multipart/mixed\n\nno boundary",
        b'Content-Type: multipart/mixed; boundary="b"\n\n--b\n--b\n--b--',
        b"Content-Type: text/plain; charset=\xff\xff\nContent-Transfer-Encoding: nonsense\n\nx",
        b"Content-Transfer-Encoding: base64\n\n!!!!=",
        b"Content-Type: ;;;=\nContent-Disposition: ;filename*=x'y\nDate: never\nFrom: <<>>,,\n\nx",
        b"".join(b'Content-Type: multipart/mixed; boundary="%d"\n\n--%d\n' % (n, n) for n in range(2000)),
        b"Content-Type: message/rfc822\n\n" * 2000,
        b"To: " + b'"(<' * 50_000 + b"\n\nx",
        b"Subject: " + b"=?utf-8?Q?" * 50_000 + b"\n\nx",
    ],
)
def test_malformed_messages_are_read(data: bytes) -> None:
    started = time.monotonic()
    seen = see(reader, data, MAIL)
    assert set(codes(seen)) <= {"DAMAGED", "METADATA-DAMAGED", "ENCODING-UNSURE"}
    assert time.monotonic() - started < 8


def test_html_alone_is_the_text_and_other_forms_of_it_are_no_attachments() -> None:
    message = EmailMessage()
    message.set_content("<p>one</p><p>two</p>", subtype="html")
    assert see(reader, message.as_bytes(), MAIL).text == "one\ntwo"
    message = EmailMessage()
    message.set_content("plain")
    message.add_alternative(b"{\\rtf1 plain}", maintype="application", subtype="rtf")
    assert not see(reader, message.as_bytes(), MAIL).children


@pytest.mark.parametrize(
    ("data", "encrypted"),
    [
        (
            b'Content-Type: multipart/encrypted; boundary="b"\n\n--b\nContent-Type: application/pgp-encrypted\n\nV',
            True,
        ),
        (b"Content-Type: application/pkcs7-mime; smime-type=enveloped-data\n\nx", True),
        (b"Content-Type: application/pkcs7-mime; smime-type=signed-data\n\nx", False),
        (b"Subject: x\n\n-----BEGIN PGP MESSAGE-----\nx", True),
        (b"Subject: x\n\nsee -----BEGIN PGP MESSAGE-----\nx", False),
    ],
)
def test_encrypted_messages(data: bytes, encrypted: bool) -> None:
    assert ("ENCRYPTED" in codes(see(reader, data, MAIL))) is encrypted


def test_an_attachment_without_bytes_keeps_its_name_only() -> None:
    seen = see(reader, b'Content-Type: application/pdf; name="x.pdf"\n\n', MAIL)
    assert (seen.metadata["attachments"], seen.children) == (["x.pdf"], [])


FIRST = b"From a@x Thu Jan  2 03:04:05 2020\nSubject: 1\n\nhello\n>From here\n\nFrom now on, prose.\n\n"
SECOND = (
    b"From b@x Thu Jan  2 03:04:05 2020\nContent-Type: multipart/mixed; boundary=b\n\n--b\n"
    b"Content-Type: message/rfc822\n\nFrom c@x Thu Jan  2 03:04:05 2020\nSubject: inner\n\nx\n--b--\n\n"
)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_mailboxes(ending: bytes) -> None:
    seen = see(reader, (FIRST + SECOND + FIRST).replace(b"\n", ending), MBOX)
    assert seen.metadata == {"messages": 3}
    assert seen.text == ""
    assert [child.name for child in seen.children] == ["00001.eml", "00002.eml", "00003.eml"]
    first = seen.children[0].path.read_bytes().replace(b"\r\n", b"\n")
    assert first == b"Subject: 1\n\nhello\nFrom here\n\nFrom now on, prose.\n\n"
    assert b"Subject: inner" in seen.children[1].path.read_bytes()


def test_mailbox_limits_and_damage() -> None:
    seen = see(reader, FIRST * 5, MBOX, Limits(children=2))
    assert (seen.metadata["messages"], len(seen.children), codes(seen)) == (5, 2, ["CHILD-LIMIT"])
    assert codes(see(reader, b"nothing", MBOX)) == ["DAMAGED"]


def test_a_message_saved_out_of_a_mailbox_keeps_its_headers() -> None:
    assert see(reader, b"From a@x Thu Jan  2 03:04:05 2020\nSubject: s\n\nx", MAIL).metadata["title"] == "s"

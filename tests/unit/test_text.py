"""Encodings, languages, and the last step of every text."""

from __future__ import annotations

import time

import pytest

from ingest.extraction import text as reader
from ingest.extraction.encoding import codec, decode, detect, iana
from ingest.extraction.language import language_of
from ingest.model import Limits
from tests.unit.office_files import HEBREW, codes, see

FRENCH = (
    "Le conseil municipal a décidé que les élèves de l'école seront reçus à la mairie, où une fête est prévue "
    "pour tous ceux qui ont été invités par le maire. C'est là que nous serons, avec vous et sans les autres."
)
RUSSIAN = "Это письмо было написано в прошлом году, когда мы ещё жили в деревне и ждали хороших новостей из города."
GREEK = "Η επιστολή αυτή γράφτηκε πέρυσι, όταν ακόμη ζούσαμε στο χωριό και περιμέναμε καλά νέα από την πόλη."
ARABIC = "كتبت هذه الرسالة في العام الماضي عندما كنا لا نزال نعيش في القرية وننتظر أخبارا جيدة من المدينة الكبيرة"
JAPANESE = (
    "この手紙は去年書かれました。私たちはまだ村に住んでいて、町からの良い知らせを待っていました。皆さん、お元気ですか。"
)
KOREAN = "이 편지는 작년에 쓰여졌습니다. 우리는 아직 마을에 살고 있었고 도시에서 좋은 소식을 기다리고 있었습니다."
CHINESE = "这封信是去年写的,当时我们还住在村里,等待城里的好消息。我们希望大家都好,一切顺利,工作也没有问题。"


@pytest.mark.parametrize(
    ("text", "python", "name"),
    [
        ("plain words", "ascii", "us-ascii"),
        (HEBREW, "utf-8", "utf-8"),
        (HEBREW, "utf-8-sig", "utf-8"),
        (HEBREW, "utf-16", "utf-16-le"),
        (HEBREW, "utf-16-be", "utf-16-be"),
        (HEBREW, "utf-16-le", "utf-16-le"),
        ("plain words", "utf-16-le", "utf-16-le"),
        (HEBREW, "cp1255", "windows-1255"),
        (HEBREW, "cp862", "ibm862"),
        (FRENCH, "cp1252", "windows-1252"),
        (RUSSIAN, "cp1251", "windows-1251"),
        (RUSSIAN, "koi8-r", "koi8-r"),
        (GREEK, "cp1253", "windows-1253"),
        (ARABIC, "cp1256", "windows-1256"),
        (JAPANESE, "shift_jis", "shift-jis"),
        (JAPANESE, "euc_jp", "euc-jp"),
        (JAPANESE, "iso2022_jp", "iso2022-jp"),
        (KOREAN, "euc_kr", "euc-kr"),
        (CHINESE, "gb2312", "gb2312"),
        (CHINESE, "hz", "hz-gb-2312"),
    ],
)
def test_encodings_without_a_label(text: str, python: str, name: str) -> None:
    assert detect(text.encode(python)) == (text, name, True)


def test_pointed_hebrew_and_hebrew_among_english() -> None:
    pointed = "בְּרֵאשִׁית בָּרָא אֱלֹהִים אֵת הַשָּׁמַיִם וְאֵת הָאָרֶץ"
    assert detect(pointed.encode("cp1255"))[:2] == (pointed, "windows-1255")
    mixed = "Dear all, " * 20 + HEBREW
    assert detect(mixed.encode("cp1255")) == (mixed, "windows-1255", True)


def test_visual_hebrew_is_told_by_its_final_letters_and_turned_round() -> None:
    visual = HEBREW[::-1].encode("cp1255")
    assert detect(visual)[1] == "iso-8859-8"
    seen = see(reader, visual, "text/plain")
    assert "שלום לכולם" in seen.text
    assert codes(seen) == ["VISUAL-ORDER"]
    assert seen.metadata == {"encoding": "iso-8859-8", "visual_order_mended": True, "language": "he"}


def test_a_guess_says_so() -> None:
    assert detect(b"caf\xe9 99")[1:] == ("windows-1252", False)
    assert codes(see(reader, b"na\xefve", "text/plain")) == ["ENCODING-UNSURE"]
    assert detect(("שלום " * 40).encode() + b"\xff" + ("שלום " * 40).encode())[1:] == ("utf-8", False)


@pytest.mark.parametrize(
    "label", ["iso-8859-8-i", "ISO-8859-8-E", "iso_8859-8", "csISO88598I", "windows-1255", "Hebrew"]
)
def test_hebrew_labels(label: str) -> None:
    assert decode(HEBREW.encode("cp1255"), label)[0] == HEBREW
    assert decode(HEBREW.encode(), label) == (HEBREW, "utf-8", True)


@pytest.mark.parametrize("label", [None, "", "unknown-8bit", "x-nobody-knows", "rot13", "base64", "idna", "us-ascii"])
def test_labels_that_say_nothing(label: str | None) -> None:
    assert decode(HEBREW.encode("cp1255"), label) == (HEBREW, "windows-1255", True)


def test_labels_mean_what_they_mean_on_the_web() -> None:
    assert decode(b"\x93quoted\x94", "iso-8859-1")[0] == "“quoted”"
    assert decode("한글 뷁".encode("cp949"), "ks_c_5601-1987")[0] == "한글 뷁"
    assert decode("€".encode("gb18030"), "gb2312")[0] == "€"
    assert codec("zip") is None
    assert iana("cp1255") == "windows-1255"
    assert decode(HEBREW.encode(), "koi8-r")[1] in {"koi8-r", "utf-8"}
    assert decode(b"\x81\xff", "shift_jis")[2] is False


def test_a_wrong_label_is_mended_where_the_bytes_are_plain() -> None:
    assert decode(HEBREW.encode("cp1255"), "utf-8") == (HEBREW, "windows-1255", False)


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\xff", b"\xff\xfe", b"\xfe\xff\x00", b"\x00" * 99, bytes(range(256)) * 9]
)
def test_no_bytes_make_it_raise(data: bytes) -> None:
    for label in (None, "utf-8", "utf-16", "iso-8859-8", "hz", "utf-7"):
        text, name, _ = decode(data, label)
        assert isinstance(text, str) and name
    see(reader, data, "text/plain")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (HEBREW, "he"),
        (FRENCH, "fr"),
        (RUSSIAN, "ru"),
        (GREEK, "el"),
        (ARABIC, "ar"),
        (JAPANESE, "ja"),
        (KOREAN, "ko"),
        (CHINESE, "zh"),
        ("The house that we have is not far from the river, and it was built by my father in that year.", "en"),
        ("Das Haus, das wir haben, ist nicht weit von dem Fluss, und es wird auch von mir für den Vater gebaut.", "de"),
        (
            "La casa que tenemos no está lejos del río, pero sus padres son los que más la han querido entre todos.",
            "es",
        ),
        ("Rechnung 4711", None),
        ("", None),
        ("HRESULT WINAPI CreateFileW OK 0x80070057", None),
    ],
)
def test_languages(text: str, language: str | None) -> None:
    assert language_of(text) == language


def test_a_long_text_is_cut_and_said_so() -> None:
    seen = see(reader, ("line\n" * 5000).encode(), "text/plain", Limits(text_chars=1000))
    assert (len(seen.text), codes(seen)) == (1000, ["TEXT-LIMIT"])
    seen = see(reader, ("שורה\n" * 900).encode(), "text/plain", Limits(text_chars=1000))
    assert "\ufffd" not in seen.text


def test_ascii_is_fast() -> None:
    started = time.monotonic()
    detect(b"some words in a line\n" * 400_000)
    assert time.monotonic() - started < 2

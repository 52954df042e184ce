"""Which encoding some bytes are text in.

Rules of this module:
- A byte-order mark wins; then strict UTF-8; then a declared label that decodes strictly; then a guess.
  A guess says so (`sure` is False) unless the text it yields is plainly of a language.
- No bytes make it raise: what cannot be decoded becomes U+FFFD, and the caller is told the guess is unsure.
- Hebrew is decided here and not by frequency tables: its five final letters stand at the ends of words in
  logical order, at the beginnings in visual order, and nowhere else. windows-1255 is the superset that is
  read for every 8-bit Hebrew label; "iso-8859-8" is reported for visual text, which windows-1255 never is.
- Labels mean what the WHATWG Encoding Standard says they mean on real documents (iso-8859-1 is read as
  windows-1252), and `iso-8859-8-i`/`-e` (RFC 1556), which Python lacks, are known.
- charset-normalizer sees at most 64 KiB; 8-bit text is homogeneous, and it is slow on more.
"""

from __future__ import annotations

import codecs
import re

import charset_normalizer

from ingest.extraction.language import language_of

SAMPLE = 64 * 1024  # bytes shown to charset-normalizer

# Labels in use that Python does not know, or knows as something narrower than what documents hold.
_ALIASES = {
    "iso-8859-1": "cp1252",
    "iso8859-1": "cp1252",
    "latin1": "cp1252",
    "latin-1": "cp1252",
    "iso-8859-9": "cp1254",
    "tis-620": "cp874",
    "iso-8859-11": "cp874",
    "windows-874": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "x-gbk": "gb18030",
    "gb-2312-80": "gb18030",
    "ks-c-5601-1987": "cp949",
    "ks-c-5601": "cp949",
    "euc-kr": "cp949",
    "ksc5601": "cp949",
    "shift-jis": "cp932",
    "sjis": "cp932",
    "x-sjis": "cp932",
    "windows-31j": "cp932",
    "unicode": "utf-16",
    "unicode-1-1-utf-8": "utf-8",
    "utf8mb4": "utf-8",
    "unicode-1-1-utf-7": "utf-7",
    "x-mac-roman": "mac_roman",
    "macintosh": "mac_roman",
    "x-mac-cyrillic": "mac_cyrillic",
    "dos-862": "cp862",
    "dos-720": "cp720",
    "ansi-x3.110-1983": "cp1252",
}
_HEBREW_LABELS = {
    "iso-8859-8",
    "iso-8859-8-i",
    "iso-8859-8-e",
    "iso8859-8",
    "iso8859-8-i",
    "iso-ir-138",
    "csiso88598e",
    "csiso88598i",
    "csisolatinhebrew",
    "hebrew",
    "logical",
    "visual",
    "windows-1255",
    "x-cp1255",
    "cp1255",
}
# Labels that promise nothing about bytes above 0x7F: those bytes are looked at instead.
_NO_CLAIM = {
    "",
    "us-ascii",
    "ascii",
    "unknown-8bit",
    "x-unknown",
    "x-user-defined",
    "default",
    "binary",
    "8bit",
}
# Codecs of Python that are no character encodings of documents, though they turn bytes into text.
_NOT_TEXT = {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem"}
_REPORTED = {"ascii": "us-ascii", "utf-8-sig": "utf-8", "shift_jis_2004": "shift_jisx0213"}
_IANA = {
    **{f"cp{n}": f"windows-{n}" for n in (874, *range(1250, 1259))},
    **{f"cp{n}": f"ibm{n}" for n in (437, 720, 737, 775, 850, 852, 855, 857, 862, 864, 866)},
    **{f"iso8859_{n}": f"iso-8859-{n}" for n in range(1, 17)},
    "latin_1": "iso-8859-1",
    "mac_roman": "macintosh",
    "mac_cyrillic": "x-mac-cyrillic",
    "cp932": "windows-31j",
}
# The plainest encoding that yields the same text is the one its writer had; the rest are supersets.
_PLAIN_FIRST = (
    ("shift_jis", "cp932", "shift_jisx0213", "shift_jis_2004"),
    ("euc_jp", "euc_jisx0213", "euc_jis_2004"),
    ("gb2312", "gbk", "gb18030"),
    ("big5", "cp950", "big5hkscs"),
    ("euc_kr", "cp949"),
)
_PLAINER = {name: family for family in _PLAIN_FIRST for name in family}
_CANDIDATES = re.findall(
    r"\w+",
    """
    cp1252 cp1250 cp1251 cp1253 cp1254 cp1256 cp1257 cp1258 cp874 koi8_r koi8_u iso8859_2 iso8859_5 iso8859_6
    iso8859_7 cp866 mac_cyrillic mac_roman cp437 cp850 cp852 cp737 cp720 shift_jis cp932 shift_jisx0213 euc_jp
    euc_jisx0213 gb2312 gbk gb18030 big5 cp950 big5hkscs euc_kr cp949 johab
    """,
)
_NIQQUD = bytes(range(0xC0, 0xD4))  # of windows-1255
_KANA = re.compile("[\u3041-\u30fe]")
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ISO_2022 = (
    (b"\x1b$)C", ("iso2022_kr",)),
    (b"\x1b$@", ("iso2022_jp", "iso2022_jp_2", "iso2022_jp_2004")),
    (b"\x1b$B", ("iso2022_jp", "iso2022_jp_2", "iso2022_jp_2004")),
    (b"\x1b$(", ("iso2022_jp_1", "iso2022_jp_2", "iso2022_jp_2004", "iso2022_jp_3")),
    (b"\x1b(", ("iso2022_jp", "iso2022_jp_2")),
)
_HZ = re.compile(rb"~\{(?:[\x21-\x77][\x21-\x7e])+~\}")


def detect(data: bytes) -> tuple[str, str, bool]:
    """The text of `data`, the IANA-like name of its encoding, and whether that is more than a guess."""
    for bom, name in _BOMS:
        if data.startswith(bom):
            body = data[len(bom) :]
            text = body.decode(name, "replace")
            return text, name, text.count("\ufffd") <= len(text) // 100
    if b"\x00" in data[:SAMPLE] and (wide := _wide(data)):
        return data.decode(wide, "replace"), wide, True
    if data.isascii():
        return _seven_bits(data)
    try:
        return data.decode("utf-8"), "utf-8", True
    except UnicodeDecodeError as problem:
        if (mended := _damaged_utf8(data, problem)) is not None:
            return mended, "utf-8", False
    return _hebrew(data) or _eight_bits(data)


def decode(data: bytes, label: str | None) -> tuple[str, str, bool]:
    """As `detect`, but `label` (a declared charset) is believed where the bytes allow it."""
    key = (label or "").strip().strip("\"'").lower().replace("_", "-")
    if key in _NO_CLAIM or data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return detect(data)
    if key in _HEBREW_LABELS:
        return _labelled_hebrew(data, key)
    name = codec(key)
    if name is None:
        return detect(data)
    try:
        return data.decode(name), iana(name), True
    except UnicodeError:
        pass
    text, encoding, sure = detect(data)
    if sure:
        return text, encoding, False  # the label was wrong: that alone is worth a word
    declared = data.decode(name, "replace")
    wrong = declared.count("\ufffd") / max(1, sum(byte > 0x7F for byte in data))
    return (declared, iana(name), False) if wrong < 0.1 else (text, encoding, False)


def codec(label: str) -> str | None:
    """Python's codec for a declared charset, as documents mean it; None for a label nobody knows."""
    key = label.strip().strip("\"'").lower().replace("_", "-")
    if key in _HEBREW_LABELS:
        return "cp1255"
    try:
        name = codecs.lookup(_ALIASES.get(key, key)).name
        "".encode(name)  # a LookupError for what is no text encoding (base64, zip, rot13)
    except (LookupError, ValueError, UnicodeError):
        return None
    return None if name.replace("-", "_") in _NOT_TEXT else name


def iana(name: str) -> str:
    """The name to report for a codec of Python: IANA's where there is one, in lower case."""
    try:
        plain = codecs.lookup(name).name
    except LookupError:
        plain = name
    plain = _REPORTED.get(plain, plain)
    key = plain.replace("-", "_")
    return _IANA.get(key) or _IANA.get(key.replace("iso8859_", "iso8859_")) or plain.replace("_", "-")


def _wide(data: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark: their NULs stand on one side of each character."""
    head = data[: SAMPLE - SAMPLE % 4]
    head = head[: len(head) - len(head) % 4] if len(head) > 8 else head
    if len(head) < 4:
        return None
    for name in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        try:
            text = codecs.getincrementaldecoder(name)().decode(head, False)
        except UnicodeDecodeError:
            continue
        good = sum(char.isprintable() or char in "\r\n\t\f" for char in text)
        plain = sum(char < "\u0700" or "\u2010" <= char <= "\u2030" for char in text)
        if text and good >= 0.95 * len(text) and plain >= 0.9 * len(text):
            return name
    return None


def _seven_bits(data: bytes) -> tuple[str, str, bool]:
    if b"\x1b" in data:
        for mark, names in _ISO_2022:
            if mark in data:
                for name in names:
                    try:
                        return data.decode(name), iana(name), True
                    except UnicodeDecodeError:
                        continue
    if b"~{" in data and _HZ.search(data):
        try:
            return data.decode("hz"), "hz-gb-2312", True
        except UnicodeDecodeError:
            pass
    return data.decode("ascii"), "us-ascii", True


def _damaged_utf8(data: bytes, problem: UnicodeDecodeError) -> str | None:
    """UTF-8 with a few wrong bytes; None when the wrong ones are more than a twentieth of the sequences."""
    sample = data[:SAMPLE] if problem.start < SAMPLE else data[problem.start - SAMPLE : problem.start + SAMPLE]
    text = sample.decode("utf-8", "replace")
    sequences = sum(char > "\x7f" for char in text)
    wrong = text.count("\ufffd")
    if sequences - wrong < 20 * wrong or (wrong and sequences < 20):
        return None
    return data.decode("utf-8", "replace")


def _hebrew(data: bytes) -> tuple[str, str, bool] | None:
    """8-bit Hebrew (windows-1255, ISO-8859-8, DOS code page 862), told by where final letters stand."""
    head = data[:SAMPLE]
    for base, name in ((0xE0, "windows-1255"), (0x80, "ibm862")):
        letters = bytes(range(base, base + 27))
        found = sum(map(head.count, (bytes([byte]) for byte in letters)))
        high = len(head) - len(head.translate(None, bytes(range(0x80, 0x100))))
        others = high - found
        if name == "windows-1255":  # niqqud and the punctuation that its keyboards give
            allowed = _NIQQUD + bytes([0xFD, 0xFE, *b"\x91\x92\x93\x94\x96\x97\x85\xa0\xa4\xab\xbb\xb7"])
            others -= len(head) - len(head.translate(None, allowed))
        if found < 4 or others > 0.05 * found:
            continue
        order = _final_letters(head, base)
        if order is None:
            continue
        text = data.decode("cp1255" if base == 0xE0 else "cp862", "replace")
        visual = base == 0xE0 and order == "visual"
        return text, "iso-8859-8" if visual else name, found >= 12
    return None


def _final_letters(head: bytes, base: int) -> str | None:
    """The order of Hebrew words (logical or visual); None when the letters stand as in no Hebrew."""
    letters = bytes(range(base, base + 27))
    head = head.translate(None, _NIQQUD)  # points stand within words
    finals = bytes(base + offset for offset in (10, 13, 15, 19, 21))
    words = re.findall(b"[" + re.escape(letters) + b"]{2,}", head)
    last = sum(word[-1] in finals for word in words)
    first = sum(word[0] in finals for word in words)
    inside = sum(map(b" ".join(word[1:-1] for word in words).count, (bytes([byte]) for byte in finals)))
    alone = len(head) - len(head.translate(None, letters)) - sum(map(len, words))
    if alone > sum(map(len, words)) // 4 or inside > 0.1 * (last + first):
        return None  # accented letters alone among ASCII; or a script in which these five are like others
    if last >= 4 * first and (last or len(words) < 12):
        return "logical"
    return "visual" if first >= 4 * last and first else None


def _labelled_hebrew(data: bytes, key: str) -> tuple[str, str, bool]:
    try:
        data.decode("utf-8")
        if not data.isascii():
            return detect(data)  # UTF-8 under a Hebrew label: no 8-bit Hebrew is valid UTF-8
    except UnicodeDecodeError:
        pass
    text = data.decode("cp1255", "replace")
    name = "iso-8859-8" if key in {"hebrew", "visual"} else "iso-8859-8-i" if key == "logical" else key
    name = "windows-1255" if "1255" in key else name.replace("iso8859", "iso-8859")
    return text, name, text.count("\ufffd") <= len(text) // 100


def _eight_bits(data: bytes) -> tuple[str, str, bool]:
    head = data[:SAMPLE]
    if western := _western(head):
        text = data.decode(western, "replace")
        return text, iana(western), language_of(text) is not None
    if japanese := _japanese(head):
        name = _plainest(data, japanese)
        return data.decode(name, "replace"), iana(name), True
    best = charset_normalizer.from_bytes(head, cp_isolation=_CANDIDATES, enable_fallback=False).best()
    if best is not None:
        name = _plainest(data, best.encoding)
        text = data.decode(name, "replace")
        enough = len(head.translate(None, bytes(range(0x80)))) >= 40
        return text, iana(name), enough and (best.coherence >= 0.3 or language_of(text) is not None)
    for name in ("johab", "cp949", "big5hkscs", "gb18030", "cp1252"):
        try:
            return data.decode(name), iana(name), False
        except UnicodeDecodeError:
            continue
    return data.decode("cp1252", "replace"), "windows-1252", False


def _japanese(head: bytes) -> str | None:
    """Japanese is a quarter kana and more, which no other script yields by chance under its encodings."""
    for name in ("euc_jp", "shift_jis"):
        text = codecs.getincrementaldecoder(name)("replace").decode(head, False)
        wide = sum(char > "\x7f" for char in text)
        if wide >= 8 and len(_KANA.findall(text)) * 4 >= wide and text.count("\ufffd") * 50 <= wide:
            return name
    return None


def _plainest(data: bytes, name: str) -> str:
    for plain in _PLAINER.get(name, ()):
        try:
            data.decode(plain)
        except UnicodeDecodeError:
            continue
        return plain
    return name


_WESTERN = set("àâäáãåæçèéêëìíîïñòóôöõøùúûüÿßœÀÂÄÁÃÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÖÕØÙÚÛÜŒ“”‘’‚„–—…•€£§©®™°«»¿¡´·ºª\xa0½¼¾±×²³µ")


def _western(head: bytes) -> str | None:
    """windows-1252 for few high bytes that are Western letters or punctuation inside ASCII text."""
    high = head.translate(None, bytes(range(0x80)))
    ascii_letters = len(re.findall(rb"[A-Za-z]", head))
    if not high or len(high) * 2 > ascii_letters:
        return None
    chars = high.decode("cp1252", "replace")
    if sum(char in _WESTERN for char in chars) < 0.97 * len(chars):
        return None
    lone = len(re.findall(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])", head))
    if lone < 0.8 * len(high):
        return None
    # Turkish and Central European share most of these bytes; their words decide, given enough of them.
    language = language_of(head.decode("cp1252", "replace"))
    return (
        "cp1252"
        if language in {"en", "fr", "de", "es", "it", "pt", "nl", "sv", "da", "no", "fi"} or (len(high) < 20)
        else None
    )

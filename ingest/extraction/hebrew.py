"""Hebrew and Arabic text that stands in visual order, put into logical order.

Rules of this module:
- Pure: text in, text out.
- In logical order the five final letters (ך ם ן ף ץ) stand at the ends of words. Where they stand at the
  beginnings instead, the text was stored in the order in which it is seen (ISO-8859-8 "visual", many PDFs).
- A text is called visual only on evidence (two such words, and several times more than the contrary):
  text that is right must never be turned round.
- Mending is line by line: the line is reversed, while numbers and words of Latin, Greek or Cyrillic letters
  keep their inner order, and brackets are mirrored (Unicode bidirectional algorithm, rules L2 and L4, undone
  for one level of embedding, which is all that visual text still shows).
"""

from __future__ import annotations

import re

_RTL = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc"
_WORD = re.compile("[\u05d0-\u05ea][\u0590-\u05ea'\"׳״]*[\u05d0-\u05ea]")
_FINALS = frozenset("ךםןףץ")
_MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")

# One token that moves as a whole: a run of left-to-right words, a number with its signs, or one letter with
# the marks that stand on it. Marks are combining characters of Hebrew and Arabic.
_STRONG_LTR = "A-Za-z\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02b8\u0370-\u0373\u0376-\u058f\u1e00-\u1fff"
_SIGNS = "#$%\u00a2-\u00a5\u00b0\u20a0-\u20bf\u2030"
_MARKS = "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670"
_TOKEN = re.compile(
    rf"(?P<words>(?:[0-9]+[.,:/-]?)*[{_STRONG_LTR}](?:[^{_RTL}\n]*[{_STRONG_LTR}0-9])?)"
    rf"|(?P<number>[{_SIGNS}]*[0-9]+(?:[.,:/+-][0-9]+)*[{_SIGNS}]*)"
    rf"|(?P<letter>[^\n][{_MARKS}]*)"
)
_HAS_RTL = re.compile(f"[{_RTL}]")
_RTL_RUN = re.compile(f"[{_RTL}](?:[^{_STRONG_LTR}0-9\n]*[{_RTL}])?")
_LTR_LETTER = re.compile(f"[{_STRONG_LTR}]")
_RTL_LETTER = re.compile("[\u05d0-\u05ea\u0620-\u064a\u066e-\u06d3]")

_LEAST = 2  # words with a final letter in front before anything is believed
_RATIO = 3  # and this many times more than words with a final letter at their end


def is_visual(text: str) -> bool:
    """True if the Hebrew of `text` stands in visual order. Without evidence (no final letters): False."""
    front = back = 0
    for word in _WORD.findall(text):
        front += word[0] in _FINALS
        back += word[-1] in _FINALS
    return front >= _LEAST and front > _RATIO * back


def to_logical(text: str) -> str:
    """`text`, which stands in visual order, in logical order. Lines without Hebrew or Arabic stay as they are."""
    # Not splitlines: form feeds between pages and other separators stay where they are.
    return "\n".join(
        "\f".join(_line(part) for part in line.split("\f")) if _HAS_RTL.search(line) else line
        for line in text.split("\n")
    )


def _line(line: str) -> str:
    if not _HAS_RTL.search(line):
        return line
    if len(_LTR_LETTER.findall(line)) > len(_RTL_LETTER.findall(line)):
        # A left-to-right line that quotes a few right-to-left words: only those are the wrong way round.
        return _RTL_RUN.sub(lambda run: _reversed(run.group()), line)
    return _reversed(line)


def _reversed(line: str) -> str:
    tokens = [
        match.group().translate(_MIRRORED) if match.lastgroup == "letter" else match.group()
        for match in _TOKEN.finditer(line)
    ]
    return "".join(reversed(tokens))

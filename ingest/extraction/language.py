"""Which language a text is in: by its script where that decides, else by its commonest words.

Rules of this module:
- Pure; looks at the first 20,000 characters; answers an ISO 639-1 code or None.
- None is the answer whenever two languages are close or the text is short: an absent language costs
  nothing, a wrong one hides a document from a search in its own language.
"""

from __future__ import annotations

import re

SAMPLE = 20_000  # characters

_SCRIPTS = (
    ("he", re.compile("[\u05d0-\u05ea]")),
    ("ar", re.compile("[\u0621-\u06ff]")),
    ("el", re.compile("[\u0386-\u03ce]")),
    ("ru", re.compile("[\u0400-\u04ff]")),
    ("ja", re.compile("[\u3041-\u30ff]")),
    ("ko", re.compile("[\uac00-\ud7a3]")),
    ("zh", re.compile("[\u4e00-\u9fff]")),
    ("th", re.compile("[\u0e01-\u0e4e]")),
    ("hi", re.compile("[\u0904-\u094d]")),
    ("hy", re.compile("[\u0531-\u0587]")),
    ("ka", re.compile("[\u10d0-\u10ff]")),
    ("am", re.compile("[\u1200-\u137f]")),
)
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
_WORD = re.compile(r"[^\W\d_]{2,}")

# The commonest words that a language does not share with most of the others.
_COMMON = {
    "en": "the of and to in is that for it with as was on be this are by not from have you at or an which",
    "fr": "le la les des est et une dans pour que qui sur pas au avec plus sont cette du ce il par nous vous",
    "de": "der die und das ist nicht mit von den ein eine zu auf für sich dem des im auch als wird sind oder",
    "es": "el los las que del una por con para se su es al como más pero sus este son entre ha fue está",
    "it": "il di che è per una sono della con non del gli nel alla dei le si più anche come questo ha da",
    "pt": "o os que não uma para com do da em se mais como dos das ao foi pelo pela são seu sua você",
    "nl": "de het een van en is dat niet op te zijn voor met die aan ook als naar wordt bij door maar",
    "pl": "się nie na jest że do to jak przez od dla oraz był po są tym który ze także może lub",
    "tr": "bir ve bu için ile olarak daha çok olan gibi kadar sonra değil ne olduğu en da de ise",
    "sv": "och att det som är på för inte med den till av har jag om ett var från vi kan",
    "da": "og det er ikke på til for med den af har jeg som et var vi kan fra ved også",
    "no": "og det er ikke på til for med den av har jeg som et var vi kan fra ved også",
    "fi": "ja on ei että se hän oli ovat kun mutta myös joka tai ole kuin niin sen",
    "cs": "se na je že to jako pro ale jsem jsou byl který nebo také podle aby když není má",
    "hu": "hogy az és nem egy is meg volt csak már ez de ha vagy mint kell lehet",
    "ro": "și în nu la este pe cu care din că mai sunt pentru fost ca sau această prin",
}
_STOP = {language: frozenset(words.split()) for language, words in _COMMON.items()}


def language_of(text: str) -> str | None:
    """ISO 639-1 code of the language of `text`, or None when it is not plain."""
    sample = text[:SAMPLE]
    if sample.isascii():
        return _by_words(sample)
    counts = {name: len(pattern.findall(sample)) for name, pattern in _SCRIPTS}
    latin = len(_LATIN.findall(sample))
    if counts["ja"] * 10 > counts["zh"]:  # kanji stand among kana
        counts["ja"] += counts["zh"]
        counts["zh"] = 0
    name = max(counts, key=lambda script: counts[script])
    # A page of another script is full of Latin names and addresses: a third of the letters decide.
    if counts[name] < 3 or counts[name] * 2 < latin:
        return _by_words(sample)
    if name == "ru":
        return _cyrillic(sample)
    if name == "ar":
        return _arabic(sample)
    return name


def _cyrillic(sample: str) -> str | None:
    lower = sample.lower()

    def has(letters: str) -> int:
        return sum(map(lower.count, letters))

    if has("ђћ") > 0 and not has("ыэ"):
        return "sr"
    if has("ѓќѕ") > 0 and not has("ыэ"):
        return "mk"
    if has("ў") > 0:
        return "be"
    if has("їєґ") > has("ыэё"):
        return "uk"
    if has("ыэё") > 0:
        return "ru"
    return "bg" if has("ъщ") > 0 else None


def _arabic(sample: str) -> str:
    persian = sum(map(sample.count, "پچژگ\u06cc\u06a9"))
    if sum(map(sample.count, "ٹڈڑںے")) > 0:
        return "ur"
    return "fa" if persian * 50 > sum("\u0621" <= char <= "\u06ff" for char in sample) else "ar"


def _by_words(sample: str) -> str | None:
    words = _WORD.findall(sample.lower())
    if len(words) < 8:
        return None
    hits = {name: sum(word in stop for word in words) for name, stop in _STOP.items()}
    first, second = sorted(hits, key=lambda name: hits[name], reverse=True)[:2]
    if hits[first] < 4 or hits[first] < 0.06 * len(words) or len(_STOP[first].intersection(words)) < 3:
        return None
    if {first, second} == {"da", "no"}:  # told apart by spelling: "av" and "af", "ikke" is both
        return first if hits[first] > hits[second] else None
    return first if hits[first] >= 1.25 * hits[second] else None

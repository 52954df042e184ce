"""Visual order is recognised, and mending it gives back the text that was written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingest.extraction.hebrew import is_visual, to_logical

# Logical words as a Hebrew reader would write them: a final form only at the end, and never the plain form
# of a letter that has a final one at the end.
_INNER = "אבגדהוזחטיכלמנסעפצקרשת"
_LAST = "אבגדהוזחטיךלםןסעףץקרשת"
words = st.builds(lambda body, last: body + last, st.text(_INNER, min_size=1, max_size=8), st.sampled_from(_LAST))
numbers = st.one_of(
    st.integers(0, 99999).map(str), st.dates().map(lambda day: day.strftime("%d.%m.%Y")), st.just("12.50%")
)
latin = st.sampled_from(["PDF", "Muniment", "ISO-8859-8", "a@example.org"])


def shown(tokens: list[str]) -> str:
    """The line as a screen shows it, left to right: an independent statement of what visual order is."""
    return " ".join(token[::-1] if token[0] in _INNER else token for token in reversed(tokens))


# Two neighbouring numbers or Latin words would make one run, whose words keep their order between them.
lines = st.lists(words, min_size=2, max_size=6).flatmap(
    lambda hebrew: st.lists(st.one_of(numbers, latin), max_size=len(hebrew)).map(
        lambda others: [
            token
            for index, word in enumerate(hebrew)
            for token in ([word, others[index]] if index < len(others) else [word])
        ]
    )
)


@given(lines)
def test_mending_gives_back_what_was_written(tokens: list[str]) -> None:
    if sum(token in ("PDF", "Muniment", "ISO-8859-8", "a@example.org") for token in tokens) > 1:
        tokens = [token for token in tokens if token[0] in _INNER]
    latin_letters = sum(char.isascii() and char.isalpha() for token in tokens for char in token)
    hebrew_letters = sum(char in _INNER or char in _LAST for token in tokens for char in token)
    if latin_letters > hebrew_letters:
        tokens = [token for token in tokens if token[0] in _INNER]
    assert to_logical(shown(tokens)) == " ".join(tokens)


@given(st.lists(words, min_size=3, max_size=60))
def test_text_in_logical_order_is_never_called_visual(hebrew: list[str]) -> None:
    assert not is_visual(" ".join(hebrew))


@given(st.lists(words, max_size=60), st.lists(st.sampled_from(["שלום", "בשן", "כסף"]), min_size=2))
def test_text_in_visual_order_is_recognised(hebrew: list[str], finals: list[str]) -> None:
    assert is_visual(shown(hebrew + finals))


@given(st.text(st.characters(max_codepoint=0x58F), max_size=200))
def test_text_without_hebrew_is_never_touched(text: str) -> None:
    assert not is_visual(text)
    assert to_logical(text) == text


@given(st.text(max_size=200))
def test_no_character_is_lost_or_made_up(text: str) -> None:
    brackets = str.maketrans("()[]{}<>«»", "(([[{{<<««")
    assert sorted(to_logical(text).translate(brackets)) == sorted(text.translate(brackets))


def test_lines_pages_brackets_and_points() -> None:
    assert to_logical("םולש\nםלוע\f(םלועל) 2024") == "שלום\nעולם\f2024 (לעולם)"
    assert to_logical("see םולש here today") == "see שלום here today"
    assert to_logical("םוֹלשָׁ") == "שָׁלוֹם"
    assert not is_visual("םולש")  # one word is no evidence

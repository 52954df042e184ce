"""Charts: what is drawn is what was given, in proportion, escaped, and said in words."""

from __future__ import annotations

import re
from datetime import date, timedelta
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from retention.reports.charts import Bar, Column, bars, columns, nice, window

DAY = date(2026, 11, 22)
TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30)


def parsed(svg: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def widths(svg: Markup) -> list[float]:
    return [
        float(rect.get("width", "").rstrip("%"))
        for rect in parsed(svg).iter("rect")
        if rect.get("class") != "chart-track"
    ]


def test_bars_are_in_proportion() -> None:
    made = bars("c", "Records", [Bar("A", "", 200, "200"), Bar("B", "", 50, "50"), Bar("C", "", 0, "0")])
    assert widths(made) == [100, 25, 0]


def test_what_is_there_can_be_seen() -> None:
    assert widths(bars("c", "t", [Bar("A", "", 10**9, ""), Bar("B", "", 1, "")]))[1] > 0.3


@given(st.lists(st.tuples(TEXT, TEXT, st.integers(0, 10**12)), max_size=12))
def test_any_text_is_text(rows: list[tuple[str, str, int]]) -> None:
    made = bars("c", "t", [Bar(name, note, value, f"{value:,}") for name, note, value in rows])
    root = parsed(made)
    names = [element.text or "" for element in root.iter("tspan") if element.get("class") == "chart-name"]
    assert [name.replace("\r", "\n") for name, _, _ in rows] == names
    assert all(0 <= width <= 100 for width in widths(made))


def test_markup_in_a_name_stays_text() -> None:
    made = bars("c", "t", [Bar("<script>alert(1)</script>", '"><img src=x>', 1, "&1")])
    assert "<script" not in made
    assert "<img" not in made


def test_a_chart_says_itself() -> None:
    root = parsed(bars("held", "Records by class", [Bar("FIN-010", "Invoices", 1234, "1,234")]))
    assert root.get("role") == "img"
    named = {element.get("id"): element.text for element in root if element.get("id")}
    assert named == {"held-title": "Records by class", "held-desc": "FIN-010: 1,234"}
    assert root.get("aria-labelledby") == "held-title held-desc"


def test_a_note_of_another_direction_is_isolated() -> None:
    made = bars("c", "t", [Bar("IL-1", "חשבוניות", 1, "1")])
    assert "\u2068חשבוניות\u2069" in made


def test_columns_are_stacked_without_gaps() -> None:
    day = Column(DAY, (("admitted", 60), ("known", 0), ("quarantined", 30), ("rejected", 10)))
    rects = [
        (float(r.get("y", 0)), float(r.get("height", 0)), r.get("class"))
        for r in parsed(columns("c", "t", [day])).iter("rect")
    ]
    assert [kind for *_, kind in rects] == ["chart-admitted", "chart-quarantined", "chart-rejected"]
    heights = [height for _, height, _ in rects]
    assert heights == pytest.approx([90, 45, 15])
    for (upper, height, _), (lower, _, _) in zip(rects[1:], rects, strict=False):
        assert upper + height == pytest.approx(lower)


def test_days_without_anything_are_empty_places() -> None:
    days = [Column(DAY - timedelta(back), (("admitted", 5 if back == 0 else 0),)) for back in range(13, -1, -1)]
    rects = [*parsed(columns("c", "t", days)).iter("rect")]
    assert len(rects) == 1
    assert float(rects[0].get("x", "").rstrip("%")) > 90


def test_nothing_at_all_is_said() -> None:
    assert "nothing came in" in columns("c", "t", [Column(DAY, (("admitted", 0),))])
    assert "nothing" in bars("c", "t", [])


@pytest.mark.parametrize(
    ("days", "first", "length"),
    [
        ([], DAY - timedelta(13), 14),
        ([DAY], DAY - timedelta(13), 14),
        ([DAY - timedelta(19)], DAY - timedelta(19), 20),
        ([DAY - timedelta(400), DAY], DAY - timedelta(30), 31),
    ],
)
def test_the_window_shows_silence_too(days: list[date], first: date, length: int) -> None:
    shown = window(days, DAY)
    assert (shown[0], shown[-1], len(shown)) == (first, DAY, length)


@given(st.integers(0, 10**15))
def test_an_axis_ends_at_a_round_number(most: int) -> None:
    top = nice(most)
    assert max(most, 1) <= top <= max(2 * most, 1)
    assert re.fullmatch(r"[1-8]0*", str(top))

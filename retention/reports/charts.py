"""Charts as inline SVG: bars by name, and columns by day.

Rules of this module:
- Pure: values in, markup out; all text is escaped.
- Widths are per cent and text is in pixels, so that a chart reads the same on a telephone and on paper.
- A chart says in words what it shows (`title`, `desc`), for those who do not see it, and shows nothing that is
  not in the table beside it. Colours come from classes of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from markupsafe import Markup

_ROW = 36  # pixels of one bar with its label
_PLOT = 150  # pixels of the columns' height
_ISOLATE, _POP = "\u2068", "\u2069"  # first strong isolate: a Hebrew name does not turn what stands around it


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar. `name` stands out, `note` follows it, `said` is the value in words."""

    name: str
    note: str
    value: int
    said: str
    kind: str = "plain"  # a class of the page: chart-plain, chart-amber …


@dataclass(frozen=True, slots=True)
class Column:
    """One day: how many of each kind, in the order in which they are stacked from the bottom."""

    day: date
    parts: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        return sum(number for _, number in self.parts)


def bars(id_: str, title: str, rows: Sequence[Bar]) -> Markup:
    """Horizontal bars, in the order given, all on one scale."""
    most = max((row.value for row in rows), default=0) or 1
    parts = [_row(number, row, most) for number, row in enumerate(rows)]
    desc = "; ".join(f"{row.name}: {row.said}" for row in rows) or "nothing"
    return _svg(id_, title, desc, _ROW * len(rows), parts)


def _row(number: int, row: Bar, most: int) -> Markup:
    top = number * _ROW
    width = 0 if row.value == 0 else max(100 * row.value / most, 0.4)  # what is there can be seen
    return Markup(
        '<svg x="0" y="{top}" width="82%" height="20"><text x="0" y="15" class="chart-label">'
        '<tspan class="chart-name">{name}</tspan><tspan dx="8">{note}</tspan></text></svg>'
        '<text x="100%" y="{base}" text-anchor="end" class="chart-value">{said}</text>'
        '<rect x="0" y="{bar}" width="100%" height="8" rx="2" class="chart-track"/>'
        '<rect x="0" y="{bar}" width="{width}%" height="8" rx="2" class="chart-{kind}">'
        "<title>{name}: {said}</title></rect>"
    ).format(
        top=top,
        base=top + 15,
        bar=top + 20,
        name=row.name,
        note=_isolated(row.note),
        said=row.said,
        width=f"{width:.2f}",
        kind=row.kind,
    )


def columns(id_: str, title: str, days: Sequence[Column]) -> Markup:
    """Stacked columns, one for each day, also for those on which nothing came."""
    top = nice(max((one.total for one in days), default=0))
    parts = [_grid(level, top) for level in ((0, top // 2, top) if top % 2 == 0 else (0, top))]
    slot = 100 / max(len(days), 1)
    for number, one in enumerate(days):
        base = 0
        for kind, value in one.parts:
            if value:
                parts.append(_block(number * slot + slot * 0.12, slot * 0.76, base, value, top, kind, one.day))
            base += value
    parts += _day_labels(days)
    busy = [
        f"{short(one.day)}: " + ", ".join(f"{n:,} {kind}" for kind, n in one.parts if n) for one in days if one.total
    ]
    return _svg(id_, title, "; ".join(busy) or "nothing came in", _PLOT + 46, parts)


def window(days: Sequence[date], last: date, least: int = 14, most: int = 31) -> tuple[date, ...]:
    """Consecutive days up to `last`: enough to show every one of `days`, at least `least`, at most `most`."""
    first = min((day for day in days), default=last)
    length = min(max((last - first).days + 1, least), most)
    return tuple(last - timedelta(back) for back in range(length - 1, -1, -1))


def nice(most: int) -> int:
    """The top of an axis: a round number, at least `most` and 1."""
    top = 1
    while True:
        for factor in (1, 2, 3, 4, 5, 6, 8):
            if top * factor >= most:
                return top * factor
        top *= 10


def short(day: date) -> str:
    """22 Nov."""
    return f"{day.day} {day:%b}"


def _grid(level: int, top: int) -> Markup:
    y = 20 + _PLOT - _PLOT * level / top
    return Markup(
        '<line x1="0" x2="100%" y1="{y}" y2="{y}" class="chart-grid"/>'
        '<text x="0" y="{above}" class="chart-tick">{level}</text>'
    ).format(y=f"{y:.1f}", above=f"{y - 4:.1f}", level=f"{level:,}" if level else "")


def _block(x: float, width: float, base: int, value: int, top: int, kind: str, day: date) -> Markup:
    height = _PLOT * value / top
    y = 20 + _PLOT - _PLOT * base / top - height
    return Markup(
        '<rect x="{x}%" y="{y}" width="{width}%" height="{height}" class="chart-{kind}"><title>{said}</title></rect>'
    ).format(
        x=f"{x:.3f}",
        y=f"{y:.2f}",
        width=f"{width:.3f}",
        height=f"{height:.2f}",
        kind=kind,
        said=f"{short(day)}: {value:,} {kind}",
    )


def _day_labels(days: Sequence[Column]) -> list[Markup]:
    """The first day, the middle one and the last: what fits on a telephone."""
    if not days:
        return []
    places = [(0.0, "start", days[0].day), (100.0, "end", days[-1].day)]
    if len(days) > 2:
        middle = len(days) // 2
        places.insert(1, (100 * (middle + 0.5) / len(days), "middle", days[middle].day))
    label = Markup('<text x="{x}%" y="{y}" text-anchor="{anchor}" class="chart-tick">{day}</text>')
    return [label.format(x=f"{x:.2f}", y=_PLOT + 38, anchor=anchor, day=short(day)) for x, anchor, day in places]


def _svg(id_: str, title: str, desc: str, height: int, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" role="img" aria-labelledby="{id}-title {id}-desc" width="100%" height="{height}">'
        '<title id="{id}-title">{title}</title><desc id="{id}-desc">{desc}</desc>{parts}</svg>'
    ).format(id=id_, title=title, desc=desc, height=height, parts=Markup("").join(parts))


def _isolated(text: str) -> str:
    return f"{_ISOLATE}{text}{_POP}" if text else ""

"""Random schedules and records, with the days on which calendars go wrong drawn often."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import strategies as st

from retention.engine import RecordFacts, Suspension
from retention.rules import (
    DATED,
    Action,
    Authority,
    Comparison,
    Condition,
    Cutoff,
    CutoffUnit,
    LaterRecords,
    Occurrence,
    Period,
    Rule,
    Trigger,
)

LEAP = [date(year, 2, 29) for year in range(1904, 2200, 4) if year not in {1900, 2100, 2200}]
EDGES = [date(1900, 2, 28), date(1900, 3, 1), date(2100, 2, 28), date(2000, 12, 31), date(2001, 1, 1)]
days = st.one_of(st.dates(date(1900, 1, 1), date(2200, 12, 31)), st.sampled_from(LEAP + EDGES))
periods = st.builds(Period, st.integers(0, 1300), st.integers(0, 800))
cutoffs = st.one_of(
    st.sampled_from([Cutoff(unit) for unit in CutoffUnit]),
    st.builds(
        lambda d: Cutoff(CutoffUnit.FISCAL_YEAR_END, d.month, d.day), st.dates(date(2000, 1, 1), date(2000, 12, 31))
    ),
)
KINDS = ("end", "birth")
triggers = st.one_of(
    st.sampled_from([Trigger(name) for name in DATED]),
    st.builds(
        lambda kind, occurrence: Trigger(kind, True, occurrence), st.sampled_from(KINDS), st.sampled_from(Occurrence)
    ),
)
conditions = st.one_of(
    st.builds(Condition, triggers),
    st.builds(Condition, triggers, st.sampled_from(Comparison), triggers, st.builds(Period, st.integers(0, 400))),
)
rules = st.builds(
    Rule,
    id=st.just("r"),
    trigger=triggers,
    period=st.one_of(periods, periods, periods, st.none()),
    action=st.sampled_from(Action),
    authority=st.just(Authority("law")),
    cutoff=cutoffs,
    effective_from=st.one_of(st.none(), days),
    triggers_from=st.one_of(st.none(), st.none(), days),
    triggers_until=st.one_of(st.none(), st.none(), days),
    when=st.one_of(st.just(()), st.lists(conditions, max_size=2).map(tuple)),
    not_before=st.one_of(st.none(), st.none(), st.just(Trigger("end", True))),
    time_zone=st.sampled_from([None, None, "Pacific/Auckland"]),
    later_records=st.sampled_from(LaterRecords),
)
unknown = st.one_of(st.none(), days, days)
facts = st.builds(
    RecordFacts,
    class_ids=st.just(("C",)),
    received=unknown,
    document_date=unknown,
    modified=unknown,
    tagged=unknown,
    events=st.dictionaries(st.sampled_from(KINDS), st.lists(days, min_size=1, max_size=3).map(tuple)),
    suspensions=st.lists(
        st.builds(
            lambda d, n: Suspension(d, None if n is None else d + timedelta(n)),
            days,
            st.one_of(st.none(), st.integers(0, 3000)),
        ),
        max_size=2,
    ).map(tuple),
)

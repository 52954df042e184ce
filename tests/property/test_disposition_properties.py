"""Holds, plans, signatures and arrivals in any order: what goes is what was due, decided, signed by two, and not held.

A model of a few lines says which records each step must destroy, hold and propose; the archive does the same steps on
PostgreSQL and a vault in a folder, and must agree after each. ORDERS=200 tries more of them."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from retention import aggregations, approvals, catalog, engine, holds, policy, signatures, triggers
from retention.aggregations import Aggregation
from retention.archive import Archive, open_archive
from retention.config import Settings
from retention.database import transaction
from retention.disposition import execution, plans, proposing, reviewing
from retention.disposition.reviewing import Decided, Decision, Selection
from retention.effects import EFFECTS
from retention.embedded import Services
from retention.errors import Refused
from retention.holds import Matter, flags
from retention.holds.register import Mode
from retention.holds.scopes import Scope
from tests.archive_builder import KEYS, SCHEDULE, Document, capture_all, enrol, load

CASE = """\
  - id: CASE
    title: A case
    action: destroy
    rules: [{id: case, trigger: "event:contract_end", period: P1Y, verified: true, authority: *house}]
  - id: SYS-CERT
"""
CONTRACT = Aggregation("contract", "1")
CLASSES = ("SHORT", "SHORT", "SHORT", "SHORT", "CASE", "CASE", "DRAFT", "LONG")  # of the records at the beginning
PEOPLE = ("Ruth Levi", "Dan Cohen")
ORDERS = int(os.environ.get("ORDERS", "8"))
Step = tuple[str, int, int]


@dataclass(frozen=True)
class Base:
    """An archive that every example begins with: a database to be copied, and a folder."""

    services: Services
    database: str
    root: Path
    records: tuple[UUID, ...]


def ticking(start: int) -> Callable[[], datetime]:
    seconds = itertools.count(start)
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    return lambda: datetime.fromtimestamp(noon.timestamp() + next(seconds), UTC)


def settings_of(services: Services, database: str, root: Path) -> Settings:
    def at(url: str) -> str:
        return f"{url.rpartition('/')[0]}/{database}"

    return Settings(
        root=root / "var",
        database_url=at(services.database_url),
        database_owner_url=at(services.owner_url),
        vault_url=f"file://{root}/vault",
        agent=PEOPLE[0],
    )


@contextmanager
def copied(services: Services, template: str) -> Iterator[str]:
    name = f"plans_{uuid4().hex}"
    with psycopg.connect(services.superuser_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER muniment_owner STRATEGY FILE_COPY".encode())
        yield name
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(scope="module")
def base(services: Services, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Base]:
    root = tmp_path_factory.mktemp("base")
    clock = ticking(0)
    with copied(services, template) as database:
        with open_archive(settings_of(services, database, root), clock()) as archive:
            load(archive, clock, SCHEDULE.replace("  - id: SYS-CERT\n", CASE))
            enrol(archive, clock)
            made = [
                Document(name, f"{n}", case=("contract", "1") if name == "CASE" else None)
                for n, name in enumerate(CLASSES)
            ]
            records = capture_all(archive, made, clock, root / "in")
            ended = triggers.Change((triggers.Given(contract(archive), "contract_end", date(2020, 1, 1)),))
            sign(archive, triggers.propose(archive, ended, clock()).id, clock, PEOPLE)
        yield Base(services, database, root, tuple(records))


def contract(archive: Archive) -> UUID:
    return aggregations.identity(archive.safe, CONTRACT)


def sign(archive: Archive, proposal_id: UUID, clock: Callable[[], datetime], people: tuple[str, ...]) -> None:
    with transaction(archive.connections) as conn:
        statement = approvals.show(conn, proposal_id).statement or ""
    for name in people:
        approvals.sign(archive, proposal_id, signatures.sign(KEYS[name], statement.encode()), clock(), EFFECTS)


# ---------------------------------------------------------------- the model


def nothing(_: UUID) -> bool:
    return False


@dataclass
class Hold:
    id: UUID
    members: set[UUID]
    grows: Callable[[UUID], bool]  # whether it takes in what arrives
    signed: set[str] = field(default_factory=set)

    @property
    def released(self) -> bool:
        return len(self.signed) == 2


@dataclass
class Plan:
    id: UUID
    items: dict[UUID, str]  # with the class as it was proposed
    decisions: dict[UUID, Decision] = field(default_factory=dict)
    signed: set[str] = field(default_factory=set)
    executed: bool = False

    @property
    def reviewed(self) -> bool:
        return len(self.decisions) == len(self.items)

    def under_review(self) -> set[UUID]:
        """Items of a class of which something is not decided."""
        left = {self.items[r] for r in self.items.keys() - self.decisions.keys()}
        return {r for r, name in self.items.items() if name in left}

    def open(self) -> set[UUID]:
        """Items that are in no other plan meanwhile."""
        if self.executed:
            return set()
        approved = len(self.signed) == 2
        return {r for r in self.items if not approved or self.decisions[r] is Decision.APPROVE}


class World:
    """The archive and the model, which take the same steps."""

    def __init__(self, archive: Archive, records: tuple[UUID, ...], folder: Path) -> None:
        self.archive, self.clock, self.folder = archive, ticking(1000), folder
        self.classes = dict(zip(records, CLASSES, strict=True))
        self.cases = {r for r, name in self.classes.items() if name == "CASE"}
        self.holds: list[Hold] = []
        self.plans: list[Plan] = []
        self.gone: set[UUID] = set()
        self.ended = True

    @property
    def kept(self) -> set[UUID]:
        return self.classes.keys() - self.gone

    def held(self) -> set[UUID]:
        return {r for hold in self.holds if not hold.released for r in hold.members}

    def due(self) -> set[UUID]:
        """By the engine, as if nothing were held."""
        with transaction(self.archive.connections) as conn:
            schedule = policy.current(conn).schedule
            facts = catalog.facts_of(conn, list(self.kept))
        today = engine.today(schedule, self.clock())
        return {r for r, f in facts.items() if engine.decide(replace(f, holds=()), schedule, today).due}

    def take(self, step: Step) -> None:
        name, which, how = step
        match name:
            case "hold":
                self.hold(which, how)
            case "release":
                self.release(which, how)
            case "arrive":
                self.arrive(("SHORT", "CASE", "LONG")[how % 3])
            case "retract":
                self.retract()
            case "propose":
                self.propose()
            case "review":
                self.review(which, how)
            case "sign":
                self.sign(which, how)
            case "execute":
                self.execute(which)
        with transaction(self.archive.connections) as conn:
            states = dict(conn.execute("SELECT record_id, state FROM records").fetchall())
            members = set(conn.execute("SELECT hold_id, record_id FROM hold_members").fetchall())
        assert {r for r in self.classes if states[r] != 1} == self.gone, step
        assert members == {(h.id, r) for h in self.holds if not h.released for r in h.members}, step

    # ------------------------------------------------------------ holds and arrivals

    def hold(self, which: int, how: int) -> None:
        one = sorted(self.classes)[which % len(self.classes)]
        scopes: list[tuple[Scope, Callable[[UUID], bool]]] = [
            (Scope(records=(one,)), lambda r: r == one),
            (Scope(classes=("SHORT",)), lambda r: self.classes[r] == "SHORT"),
            (Scope(classes=("LONG",)), lambda r: self.classes[r] == "LONG"),
            (Scope(aggregations=("contract:1",)), lambda r: r in self.cases),
        ]
        scope, hit = scopes[how // 2 % 4]
        mode = Mode.DYNAMIC if how % 2 else Mode.STATIC
        matter = Matter(f"matter {len(self.holds)}", "court", date(2099, 1, 1))
        placed = holds.place(self.archive, scope, mode, matter, self.clock())
        members = {r for r in self.kept if hit(r)}
        assert placed.new and placed.members == len(members)
        self.holds.append(Hold(placed.hold_id, members, hit if mode is Mode.DYNAMIC else nothing))

    def release(self, which: int, how: int) -> None:
        standing = [hold for hold in self.holds if not hold.released]
        if standing:
            hold = standing[which % len(standing)]
            people = (PEOPLE, PEOPLE, PEOPLE[:1], PEOPLE[1:])[how % 4]
            sign(self.archive, holds.propose_release(self.archive, hold.id, self.clock()).id, self.clock, people)
            hold.signed |= {*people}

    def arrived(self, record: UUID) -> None:
        for hold in self.holds:
            if not hold.released and hold.grows(record):
                hold.members.add(record)

    def arrive(self, name: str) -> None:
        made = Document(name, f"late {len(self.classes)}", case=("contract", "1") if name == "CASE" else None)
        try:
            (record,) = capture_all(self.archive, [made], self.clock, self.folder / str(len(self.classes)))
        except Refused:  # into a case file whose key is gone
            assert name == "CASE" and not self.cases & self.kept
            return
        self.classes[record] = name
        self.cases |= {record} if name == "CASE" else set()
        self.arrived(record)

    def retract(self) -> None:
        if self.ended and self.cases & self.kept:
            with transaction(self.archive.connections) as conn:
                (event,) = catalog.trigger_events(conn, self.archive, [contract(self.archive)])
            wrong = triggers.Retraction(UUID(event["trigger_event_id"]))
            triggers.change(self.archive, triggers.Change(retractions=(wrong,)), self.clock())
            self.ended = False

    # ------------------------------------------------------------ plans

    def propose(self) -> None:
        taken = {r for plan in self.plans for r in plan.open()}
        expected = self.due() - self.held() - taken
        proposed = proposing.propose(self.archive, self.clock())
        assert (proposed.plan is not None) == bool(expected)
        if proposed.plan is not None:
            with transaction(self.archive.connections) as conn:
                items = {UUID(str(row[0])) for row in plans.items(conn, proposed.plan)}
            assert items == expected
            self.plans.append(Plan(proposed.plan, {r: self.classes[r] for r in expected}))

    def _plan(self, which: int) -> Plan | None:
        """The latest one mostly."""
        return self.plans[-1 - which % 2 % len(self.plans)] if self.plans else None

    def review(self, which: int, how: int) -> None:
        if (plan := self._plan(which)) is None:
            return
        one = sorted(plan.items)[how // 6 % len(plan.items)]
        everything = how % 6 in (0, 1)  # of what is left; mostly approved
        decided = (
            Decided(Decision.APPROVE),
            Decided(Decision.APPROVE) if which % 5 else self._held_by_review(),
            Decided(Decision.APPROVE),
            Decided(Decision.EXTEND, "still-in-use", not_before=date(2027, 5, 1)),
            Decided(Decision.RELABEL, "misfiled", to_class="LONG"),
            self._held_by_review(),
        )[how % 6]
        left = plan.under_review()
        chosen = left - plan.decisions.keys() if everything else left & {one}
        selection = Selection(everything=True) if everything else Selection(records=(one,))
        if not chosen:
            with pytest.raises(Exception, match="it is|nothing of it was named"):
                reviewing.review(self.archive, plan.id, selection, decided, self.clock())
            return
        assert reviewing.review(self.archive, plan.id, selection, decided, self.clock()) == len(chosen)
        plan.decisions |= dict.fromkeys(chosen, decided.decision)
        if decided.decision is Decision.HOLD:
            with transaction(self.archive.connections) as conn:
                row = conn.execute("SELECT hold_id FROM holds ORDER BY recorded_at DESC LIMIT 1").fetchone()
            assert row is not None
            self.holds.append(Hold(row[0], chosen, nothing))

    def _held_by_review(self) -> Decided:
        return Decided(Decision.HOLD, matter=Matter(f"matter {len(self.holds)}", "audit", date(2099, 1, 1)))

    def sign(self, which: int, how: int) -> None:
        if (plan := self._plan(which)) is None:
            return
        people = (PEOPLE, PEOPLE, PEOPLE[:1], PEOPLE[1:])[how % 4]
        if not plan.reviewed:
            with pytest.raises(Refused, match="under review"):
                sign(self.archive, plan.id, self.clock, people)
            return
        before = len(plan.signed)
        sign(self.archive, plan.id, self.clock, people)
        plan.signed |= {*people}
        if before < 2 == len(plan.signed):
            for record in (r for r, decision in plan.decisions.items() if decision is Decision.RELABEL):
                self.classes[record] = "LONG"
                self.arrived(record)

    def execute(self, which: int) -> None:
        if (plan := self._plan(which)) is None:
            return
        flags.drain(self.archive, self.clock())
        if len(plan.signed) < 2:
            with pytest.raises(Refused, match="nothing is destroyed without two signatures"):
                execution.execute(self.archive, plan.id, self.clock)
            return
        if not plan.executed:
            decided = {r for r, decision in plan.decisions.items() if decision is Decision.APPROVE}
            as_proposed = {r for r in decided if self.classes[r] == plan.items[r] != "DRAFT"}
            self.gone |= as_proposed & self.due() - self.held()
        plan.executed = True
        assert execution.execute(self.archive, plan.id, self.clock).complete


@contextmanager
def world(base: Base) -> Iterator[World]:
    root = base.root.with_name(f"world-{uuid4().hex}")
    shutil.copytree(base.root, root)
    try:
        with (
            copied(base.services, base.database) as database,
            open_archive(settings_of(base.services, database, root), ticking(900)()) as archive,
        ):
            yield World(archive, base.records, root)
    finally:
        shutil.rmtree(root)


# ---------------------------------------------------------------- any order

often = ("propose", "review", "review", "sign", "execute", "hold", "hold", "hold", "release", "arrive", "retract")
steps = st.tuples(st.sampled_from(often), st.integers(0, 9), st.integers(0, 59))
DISPOSING: list[Step] = [("propose", 0, 0), ("review", 0, 0), ("sign", 0, 0), ("execute", 0, 0)]


@st.composite
def scripts(draw: st.DrawFn) -> list[Step]:
    """A plan is made and executed; anything happens before, between and after."""
    between = [draw(st.lists(steps, max_size=3)) for _ in range(len(DISPOSING))]
    return [step for one, others in zip(DISPOSING, between, strict=True) for step in (one, *others)]


@given(script=scripts())
@settings(max_examples=ORDERS)
def test_in_whatever_order_what_goes_was_due_decided_signed_by_two_and_not_held(base: Base, script: list[Step]) -> None:
    with world(base) as one:
        for step in script:
            one.take(step)


HOLDING: list[Step] = [("hold", 0, 0), ("hold", 1, 1), ("release", 1, 0)]  # one that stays, one that ends
PLANNING: list[Step] = [("propose", 0, 0), ("review", 0, 0), ("sign", 0, 2), ("sign", 0, 3)]


@given(order=st.permutations([True] * len(HOLDING) + [False] * len(PLANNING)))
@example(order=[False, True, True, True, False, False, False])
@example(order=[False, False, True, True, False, True, False])
@example(order=[False, False, False, False, True, True, True])
@settings(max_examples=ORDERS // 4)
def test_a_hold_beats_a_plan_wherever_it_comes_between(base: Base, order: list[bool]) -> None:
    with world(base) as one:
        held, for_a_while = sorted(one.classes)[:2]
        due = one.due()
        assert {held, for_a_while} <= due
        holding, planning = iter(HOLDING), iter(PLANNING)
        for of_holds in order:
            one.take(next(holding if of_holds else planning))
        one.take(("execute", 0, 0))
        drafts = {r for r in due if one.classes[r] == "DRAFT"}
        assert one.gone - {for_a_while} == due - drafts - {held, for_a_while}

"""The whole archive against its history: entries, checkpoints, the catalog row by row, sealed lines, the vault.

Rules of this package (requirements: history, *Verify*):
- One look at one moment: everything of the catalog is read in one snapshot, while others work on.
- From the outside in: the published ledger as an auditor checks it, with a key that is given or the catalog's own; the
  catalog's entries against what was signed; the tables against the entries; sealed lines, keys and what is reckoned
  from them; the vault's objects.
- It changes nothing; `enter` says in the history that it was done. Everything that differs is named, and nothing that
  was opened is said.
- What nobody has signed cannot be shown to be true: before anything was published, that is a problem too.
- What only the vault knows (locks and holds as they are set) is compared by `locks` and `holds.flags`, not here. What
  the queues write down for themselves (attempts, errors, when something was last tried) decides nothing; each such
  column is named as `elsewhere` in its projection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from retention import auditors, database, ledger, policy, schedule
from retention.archive import Archive
from retention.database import Connection, transaction
from retention.errors import MunimentError, NotFound
from retention.history import export, keys, offline, publishing
from retention.history.keys import LogKey
from retention.history.offline import Problem, Verified
from retention.ledger import Event
from retention.tlog import tiles
from retention.tlog.note import Verifier
from retention.tlog.tiles import WIDTH
from retention.vault.base import Vault
from retention.verification import entries, objects, sealed, tables
from retention.verification.entries import Entries
from retention.verification.projections import PROJECTIONS

APPEND_ONLY = {
    *("events", "event_subjects", "schedule_versions", "signatures", "ledger_keys", "ledger_checkpoints"),
}  # by a trigger, whoever writes
MOST = 10_000  # problems that are listed; the rest is counted

Teller = Callable[[str, int, int], None]  # what is looked at, how many of how many


@dataclass(slots=True)
class Verification:
    """What was found: `size` events with `root`, of which `published` are signed; how much was compared."""

    size: int = 0
    root: bytes = b""
    published: int = 0
    checkpoints: int = 0
    tables: int = 0
    problems: list[Problem] = field(default_factory=list)
    more: int = 0  # problems beyond MOST

    @property
    def ok(self) -> bool:
        return not self.problems

    def add(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            if len(self.problems) < MOST:
                self.problems.append(problem)
            else:
                self.more += 1


def verify(
    archive: Archive,
    trusts: Sequence[Verifier] = (),
    share: float = 1.0,
    tell: Teller | None = None,
    *,
    describe: bool = False,
) -> Verification:
    """Check everything. `trusts`: public keys of the log that the caller has from elsewhere; `share` of the documents
    whose bytes are read (0 to 1). `describe`: the description tables are empty (it is a recovery) and are filled with
    what the check opens, so that it is opened once. Raises ServiceUnavailable."""

    def telling(what: str) -> Callable[[int, int], None]:
        return lambda done, of: tell(what, done, of) if tell else None

    found = Verification()
    with transaction(archive.connections) as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        known = keys.all_keys(conn)
        trusted = [*trusts] or [key.verifier for key in known[:1]]
        published = _published(archive, known, trusted, found, telling("published entries"))
        sizes = [published.size] if published else []
        there = entries.check(conn, sizes, telling("events"))
        found.size, found.root = there.size, there.root
        found.add(there.problems)
        if known:
            found.add(entries.check_notes(conn, there, known[0].origin, [key.verifier for key in known]))
        if published:
            found.add(check_beginning(conn, archive.vault, there, published))
            found.add(check_copies(conn, archive.vault, published.size))
        found.add(check_migrations(conn))
        found.add(check_guards(conn))
        found.add(check_marks(conn))
        found.add(check_open_classes(conn))
        tables.tell_history(conn, there.damaged)
        for number, one in enumerate(PROJECTIONS, 1):
            found.add(tables.compare(conn, one))
            found.tables = number
            telling("tables")(number, len(PROJECTIONS))
        found.add(Problem(f"table auditor_classes, row {row}", said) for row, said in auditors.check(conn, archive))
        found.add(sealed.check(conn, archive, telling("descriptor objects"), describe=describe))
        found.add(objects.check_listing(conn, archive))
        found.add(objects.check_schedules(conn, archive))
        found.add(objects.check_bytes(conn, archive, share, telling("documents")))
    return found


def enter(archive: Archive, found: Verification, now: datetime) -> None:
    """That it was checked, and what came out, into the history: nobody can say later that it was not."""
    detail = {
        "verified": found.size,
        "root": found.root.hex(),
        "tables": found.tables,
        "problems": len(found.problems) + found.more,
    }
    with transaction(archive.connections) as conn:
        ledger.append(conn, [Event("dig", now, archive.agent, (), "success" if found.ok else "failure", detail)], now)


def _published(
    archive: Archive,
    known: Sequence[LogKey],
    trusted: Sequence[Verifier],
    found: Verification,
    tell: Callable[[int, int], None],
) -> Verified | None:
    """The ledger in the vault, copied out and checked as an auditor does it."""
    if not trusted:
        found.add([Problem("vault ledger", "nothing is signed: make a key (`muniment ledger init`), and publish it.")])
        return None
    archive.settings.root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="verify-", dir=archive.settings.root) as folder:
        try:
            threads = archive.settings.vault_threads
            copied = export.copy(archive.vault, known, Path(folder) / "ledger", threads, older=True)
        except NotFound:
            said = "missing: nothing was published yet (`muniment ledger publish`), or somebody removed it."
            found.add([Problem(f"vault {publishing.CHECKPOINT}", said)])
            return None
        except MunimentError as error:
            found.add([Problem(f"vault {publishing.CHECKPOINT}", str(error))])
            return None
        checked = offline.verify(Path(folder) / "ledger", trusted, tell)
    found.published, found.checkpoints = checked.size, checked.checkpoints
    found.add(Problem(f"vault {key}", "missing: it is a part of the published ledger.") for key in copied.missing)
    found.add(Problem(f"vault ledger/{one.path}", one.said) for one in checked.problems)
    found.add(_strange(archive.vault))
    return checked


def _strange(vault: Vault) -> Iterator[Problem]:
    """What stands among the ledger's files and is none: a copy takes what it knows alone."""
    for stored in vault.list(publishing.FOLDER):
        path = stored.key.removeprefix(f"{publishing.FOLDER}/")
        if path.partition("/")[0] in export.OURS and (not path.startswith("tile/") or tiles.parse_path(path)):
            continue
        yield Problem(f"vault {stored.key}", "no file of a ledger. Look who put it there.")


def check_beginning(conn: Connection, vault: Vault, there: Entries, published: Verified) -> Iterator[Problem]:
    """That the catalog's events begin with those that were published; each that does not is named."""
    if there.size < published.size:
        said = f"{there.size:,} events are there, {published.size:,} were published: events were removed."
        yield Problem("table events", said)
    if there.roots.get(published.size) == published.root:
        return
    for first in range(0, published.size, WIDTH):
        tile = tiles.in_tree(published.size, 0, first // WIDTH)
        try:
            logged = tiles.hashes(tile, publishing.read_tile(vault, tile))
        except MunimentError as error:
            yield Problem(f"vault ledger/{tile.path}", str(error))
            continue
        rows = conn.execute(
            "SELECT position, leaf_hash FROM events WHERE position BETWEEN %s AND %s", (first, first + WIDTH - 1)
        )
        found = {position: bytes(leaf) for position, leaf in rows}
        for position, leaf in enumerate(logged, first):
            if found.get(position) != leaf:
                yield Problem(f"table events, position {position}", "it is not the event that was published there.")


def check_copies(conn: Connection, vault: Vault, size: int) -> list[Problem]:
    """That each checkpoint that was signed, up to the newest published, has its copy: who rolls back removes some."""
    there = {stored.key for stored in vault.list(publishing.COPIES)}
    rows = conn.execute("SELECT size FROM ledger_checkpoints WHERE size <= %s ORDER BY size", (size,))
    keys_of = (f"{publishing.COPIES}/{row[0]:020}" for row in rows)
    return [Problem(f"vault {key}", "missing: it was signed and published.") for key in keys_of if key not in there]


def check_migrations(conn: Connection) -> list[Problem]:
    """That the shapes of the catalog are those of this version's migrations."""
    should = {number: (name, sha256(text.encode()).digest()) for number, name, text in database.migrations()}
    rows = conn.execute("SELECT number, name, sha256 FROM schema_migrations ORDER BY number").fetchall()
    there = {number: (name, bytes(digest)) for number, name, digest in rows}
    return [
        Problem(f"table schema_migrations, row {number}", "it is not a migration of this version.")
        for number in sorted(should.keys() | there.keys())
        if should.get(number) != there.get(number)
    ]


def check_marks(conn: Connection) -> list[Problem]:
    """That what makes a record special finds it marked: what is not marked is decided without it. A mark alone costs
    time, and decides nothing."""
    rows = conn.execute(
        """WITH marking AS (SELECT subject_id FROM suspensions UNION SELECT subject_id FROM trigger_events)
           SELECT r.record_id FROM records r
             JOIN (SELECT r.record_id FROM marking m JOIN records r ON r.record_id = m.subject_id
                   UNION
                   SELECT r.record_id FROM suspensions s JOIN records r ON r.aggregation_id = s.subject_id
                   UNION
                   SELECT record_id FROM record_labels) AS s USING (record_id)
            WHERE NOT r.special AND r.state = 1 ORDER BY 1"""
    )
    said = "special is false; a suspension, an event of its own or a label makes it true."
    return [Problem(f"table records, row {row[0]}", said) for row in rows]


def check_open_classes(conn: Connection) -> Iterator[Problem]:
    """That auditors see unasked what each version of the schedule opens to them."""
    for version, document, opened in conn.execute(
        "SELECT version, document, open_classes FROM schedule_versions ORDER BY version"
    ):
        where = f"table schedule_versions, row {version}"
        try:
            should = policy.open_classes(schedule.load(document, where))
        except MunimentError as error:
            yield Problem(where, f"document: {error}")
            continue
        if opened != should:
            yield Problem(where, "open_classes: not the classes without personal data of its document.")


def check_guards(conn: Connection) -> list[Problem]:
    """What keeps history as it is: the triggers that refuse, and the keys that keep a row from being there twice."""
    off = conn.execute(
        "SELECT c.relname, t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
        "WHERE c.relnamespace = 'public'::regnamespace AND t.tgenabled <> 'O' ORDER BY 1, 2"
    )
    problems = [Problem(f"table {table}", f"its trigger {name} is switched off.") for table, name in off]
    guarded = conn.execute(
        "SELECT c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
        "WHERE t.tgfoid = 'history_is_append_only()'::regprocedure"
    )
    missing = APPEND_ONLY - {row[0] for row in guarded}
    problems += [Problem(f"table {name}", "the trigger that keeps it append-only is gone.") for name in sorted(missing)]
    unkeyed = conn.execute(
        "SELECT relname FROM pg_class c WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace "
        "AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique) ORDER BY 1"
    )
    return problems + [Problem(f"table {row[0]}", "its unique key is gone.") for row in unkeyed]

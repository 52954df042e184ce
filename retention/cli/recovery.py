"""`muniment restore`, `rebuild`, `drill`: an archive, or its catalog alone, made once more; or tried.

Rules of this module: those of retention.cli.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from retention.cli.command import answer, identifier, now, opened, progress, settings, tell, visible
from retention.config import external
from retention.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from retention.config import BackupVault, Settings
    from retention.recovery.drill import Escrowed
    from retention.tlog.note import Verifier

KeyOption = Annotated[
    list[str] | None,
    typer.Option("--key", metavar="VKEY", help="Public key of the ledger that you have from elsewhere; repeatable."),
]

SharesOption = Annotated[
    Path | None, typer.Option("--shares", metavar="DIR", help="A folder with enough shares of the root key.")
]


def restore(
    context: typer.Context,
    source: Annotated[str, typer.Option("--from", metavar="URL", help="The second vault, or its name.")],
    target: Annotated[str | None, typer.Option("--into", metavar="URL", help="The new vault. Default: yours.")] = None,
    point: Annotated[str | None, typer.Option(metavar="ID", help="Default: the newest that is whole.")] = None,
    only: Annotated[str | None, typer.Option(metavar="CLASS", help="The documents of this class first.")] = None,
    key: KeyOption = None,
    shares: SharesOption = None,
) -> None:
    """Restore catalog and vault on an empty machine, from a second vault alone.

    Put the root key (and the ledger's key) into the workspace's `keys` before, or give its shares. Exits 1 if a record
    is lost, something that was destroyed came back, or the restored archive does not verify."""
    from retention import custody
    from retention.recovery import restore as run
    from retention.vault import open_vault

    there = settings(context.obj)
    if target is not None and target != there.vault_url:  # its keys are where boto3 finds them
        there = replace(there, vault_url=target, vault_access_key=None, vault_secret_key=None)
    named = _named(there, source)
    second = open_vault(named.url, access_key=named.access_key, secret_key=named.secret_key)
    wanted = identifier(point) if point else None
    if shares is not None:
        custody.recover(custody.root_of([shares]), there.keys)
    with progress("restored") as show:
        done = run(there, second, _keys(key), now, wanted, only, lambda _, n, of: show(n, of))
    problems = [*done.problems, *map(str, done.verified.problems)]
    value = {
        "rto": round(done.seconds, 3),
        "resurrected": done.resurrected,
        "lost": [str(one) for one in done.lost],
        "verified": done.verified.ok,
        "point_id": str(done.point),
        "taken_at": done.taken,
        "size": done.size,
        "since": done.since,
        "records": done.records,
        "objects": done.objects,
        "bytes": done.bytes,
        "left": done.left,
        "passed_over": done.passed_over,
        "problems": problems,
    }

    def people() -> None:
        for said in (*done.passed_over, *problems):
            print(visible(said))
        for one in done.lost:
            print(f"{one}: lost, it came after the point and is in no copy")
        if done.left:
            print(f"{done.left:,} documents of other classes are not here yet: `muniment fixity run --share 100`")
        print(
            f"restored from point {done.point} of {done.taken:%Y-%m-%d %H:%M %Z} and {done.since:,} events after it: "
            f"{done.records:,} records, {done.objects:,} objects, {done.bytes:,} bytes, in {done.seconds:.1f} s"
        )
        verified = "verified" if done.verified.ok else "NOT verified"
        print(f"lost: {len(done.lost):,}; resurrected: {done.resurrected:,}; {verified}")
        if target is not None:
            print(f"from now on: MUNIMENT_VAULT_URL={there.vault_url}")

    answer(context.obj, value, people)
    if not done.ok:
        raise typer.Exit(1)


def rebuild(context: typer.Context, key: KeyOption = None) -> None:
    """Rebuild an empty catalog from its vault, the published ledger and the key safe, with no backup of the database.

    Records, states, holds and certificates come back; what only rows of keys open stays closed until they do."""
    from retention.recovery import rebuild as run

    with progress("rebuilt") as show:
        done = run(settings(context.obj), _keys(key), now(), lambda _, n, of: show(n, of))
    value = {
        "size": done.size,
        "root": done.root.hex(),
        "records": done.records,
        "unreadable": done.unreadable,
        "problems": [str(one) for one in done.problems],
    }
    if done.assumed:
        tell("no --key was given: the ledger is whole and signed by the key that it names itself, whoever's that is")

    def people() -> None:
        for one in done.problems:
            print(visible(str(one)))
        print(f"{done.size:,} events, root {done.root.hex()}: {done.records:,} records")
        if done.unreadable:
            print(f"{done.unreadable:,} of them cannot be opened: their keys are in no copy here")
        print("`muniment verify` names everything that is not as it was")

    answer(context.obj, value, people)
    if done.problems or done.unreadable:
        raise typer.Exit(1)


def drill(
    context: typer.Context,
    vault: Annotated[
        str | None, typer.Option("--vault", metavar="NAME", help="The second vault; the only one.")
    ] = None,
    point: Annotated[str | None, typer.Option(metavar="ID", help="Default: the newest.")] = None,
    root_key: Annotated[
        Path | None,
        typer.Option("--root-key", metavar="FILE", help="The copy of it that people keep; default: the one in use."),
    ] = None,
    shares: SharesOption = None,
    target: Annotated[
        str | None, typer.Option("--into", metavar="URL", help="An empty vault for it; default: a folder that goes.")
    ] = None,
) -> None:
    """Try a restore: into a scratch database and vault, verified, timed, compared with the policy of each class.

    The scratch database is a new one beside the embedded catalog, or an empty one that MUNIMENT_DRILL_DATABASE_URL and
    MUNIMENT_DRILL_DATABASE_OWNER_URL name. Exits 1 if something is not as it should be."""
    from retention.recovery.drill import alone
    from retention.recovery.drill import drill as run

    wanted = identifier(point) if point else None
    escrowed = _escrowed(root_key, shares)
    with opened(context.obj) as archive, alone(archive), _scratch_database(context.obj.root) as (database, owner):
        named = vault or _only(archive.seconds)
        with TemporaryDirectory(prefix="drill-", dir=context.obj.root) as folder, progress("restored") as show:
            scratch = replace(
                archive.settings,
                root=Path(folder) / "workspace",
                database_url=database,
                database_owner_url=owner,
                vault_url=target or (Path(folder) / "vault").as_uri(),
                vault_access_key=None,
                vault_secret_key=None,
                backups=(),
            )
            done = run(archive, named, scratch, now, escrowed, wanted, lambda _, n, of: show(n, of))
    found = done.restored
    problems = [*found.passed_over, *found.problems, *map(str, found.verified.problems), *map(str, done.late)]
    value = {
        "rto": round(found.seconds, 3),
        "rpo": round(done.rpo.total_seconds()),
        "resurrected": found.resurrected,
        "lost": [str(one) for one in found.lost],
        "older": done.older,
        "verified": found.verified.ok,
        "ok": done.ok,
        "escrowed": None if escrowed is None else escrowed.how,
        "point_id": str(found.point),
        "records": found.records,
        "objects": found.objects,
        "late": [str(one) for one in done.late],
        "problems": problems,
    }

    def people() -> None:
        for said in problems:
            print(visible(said))
        size = f"{found.records:,} records, {found.objects:,} objects"
        print(f"{size} in {found.seconds:.1f} s; the point was {done.rpo} old")
        print(f"lost since: {len(found.lost):,}; before: {done.older:,}; resurrected: {found.resurrected:,}")
        if escrowed is not None:
            print(f"the {'shares open' if escrowed.how == 'shares' else 'copy of the root key opens'} the archive")
        print("the drill is green" if done.ok else "the drill is RED")

    answer(context.obj, value, people)
    if not done.ok:
        raise typer.Exit(1)


def _escrowed(root_key: Path | None, shares: Path | None) -> Escrowed | None:
    """The root as people keep it, if they brought it."""
    from retention import custody
    from retention.recovery.drill import Escrowed
    from retention.roots import read_root

    if root_key is not None and shares is not None:
        raise UsageError("--root-key and --shares: expected one of them; each alone makes the root.")
    if shares is not None:
        return Escrowed(custody.root_of([shares]), "shares")
    if root_key is None:
        return None
    if not root_key.is_file():
        raise UsageError(f"--root-key {root_key}: expected a copy of root.key, there is none.")
    return Escrowed(read_root(root_key), "file")


def _only(names: Iterable[str]) -> str:
    known = list(names)
    if len(known) != 1:
        raise UsageError(f"--vault: expected the name of a second vault ({', '.join(known) or 'MUNIMENT_BACKUPS'}).")
    return known[0]


def _scratch_database(root: Path) -> AbstractContextManager[tuple[str, str]]:
    """The URLs of an empty database, as the application and as the owner."""
    given = [os.environ.get(f"MUNIMENT_DRILL_DATABASE{kind}_URL") for kind in ("", "_OWNER")]
    if given[0] and given[1]:
        return nullcontext((given[0], given[1]))
    if external(os.environ)[0] is not None:
        raise UsageError(
            "MUNIMENT_DRILL_DATABASE_URL and MUNIMENT_DRILL_DATABASE_OWNER_URL: expected the URLs of an empty "
            "database, since the catalog is not the embedded one."
        )
    from retention.embedded import load, postgres

    services = load(root)
    if services is None:
        raise UsageError(f"workspace {root}: nothing is there yet. Run `muniment up`, then this again.")
    return postgres.scratch(services)


def _keys(given: list[str] | None) -> list[Verifier]:
    from retention.tlog import note

    return [note.parse_vkey(one) for one in given or ()]


def _named(there: Settings, source: str) -> BackupVault:
    """The second vault of that name or URL; of any other URL the keys are where boto3 finds them."""
    from retention.config import BackupVault

    known = (one for one in there.backups if source in (one.name, one.url))
    return next(known, BackupVault("", source))

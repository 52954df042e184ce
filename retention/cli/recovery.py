"""`muniment restore`, `muniment rebuild`: an archive, or its catalog alone, made once more.

Rules of this module: those of retention.cli.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from retention.cli.command import answer, identifier, now, progress, settings, tell, visible

if TYPE_CHECKING:
    from retention.config import BackupVault, Settings
    from retention.tlog.note import Verifier

KeyOption = Annotated[
    list[str] | None,
    typer.Option("--key", metavar="VKEY", help="Public key of the ledger that you have from elsewhere; repeatable."),
]


def restore(
    context: typer.Context,
    source: Annotated[str, typer.Option("--from", metavar="URL", help="The second vault, or its name.")],
    target: Annotated[str | None, typer.Option("--into", metavar="URL", help="The new vault. Default: yours.")] = None,
    point: Annotated[str | None, typer.Option(metavar="ID", help="Default: the newest that is whole.")] = None,
    only: Annotated[str | None, typer.Option(metavar="CLASS", help="The documents of this class first.")] = None,
    key: KeyOption = None,
) -> None:
    """Restore catalog and vault on an empty machine, from a second vault alone.

    Put the root key (and the ledger's key) into the workspace's `keys` before. Exits 1 if a record is lost, something
    that was destroyed came back, or the restored archive does not verify."""
    from retention.recovery import restore as run
    from retention.vault import open_vault

    there = settings(context.obj)
    if target is not None and target != there.vault_url:  # its keys are where boto3 finds them
        there = replace(there, vault_url=target, vault_access_key=None, vault_secret_key=None)
    named = _named(there, source)
    second = open_vault(named.url, access_key=named.access_key, secret_key=named.secret_key)
    wanted = identifier(point) if point else None
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


def _keys(given: list[str] | None) -> list[Verifier]:
    from retention.tlog import note

    return [note.parse_vkey(one) for one in given or ()]


def _named(there: Settings, source: str) -> BackupVault:
    """The second vault of that name or URL; of any other URL the keys are where boto3 finds them."""
    from retention.config import BackupVault

    known = (one for one in there.backups if source in (one.name, one.url))
    return next(known, BackupVault("", source))

"""`muniment backup …`: recovery points in second vaults.

Rules of this module: those of retention.cli. `run`, `check` and `prune` go over every second vault that
MUNIMENT_BACKUPS names, or over the one that is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from retention.cli.command import Options, answer, now, opened, progress, table, visible
from retention.errors import UsageError

if TYPE_CHECKING:
    from retention.archive import Archive
    from retention.backup import Listed, Taken
    from retention.backup.checking import Checked
    from retention.backup.pruning import Pruned

app = typer.Typer(no_args_is_help=True, help="Recovery points in second vaults: taken, listed, checked, pruned.")

VaultOption = Annotated[str | None, typer.Option("--vault", metavar="NAME", help="This second vault, not all.")]


@app.command("run")
def backup_run(context: typer.Context, vault: VaultOption = None) -> None:
    """Take a recovery point: what is missing in the second vault is copied, and a signed point names all of it.

    Exits 1 if an object could not be copied, and names it."""
    from retention import backup

    with opened(context.obj) as archive, progress("objects copied") as show:
        done = [backup.run(archive, name, now, lambda n, _: show(n, n)) for name in _named(archive, vault)]
    value = [_taken(one) for one in done]

    def people() -> None:
        for one in value:
            for problem in one["problems"]:
                print(visible(problem))
            print(
                f"{one['vault']}: point {one['point_id']} of {one['objects']:,} objects and {one['size']:,} events; "
                f"{one['copied']:,} objects copied, {one['bytes']:,} bytes, in {one['seconds']:.1f} s"
            )

    _answer(context.obj, "points", value, people)
    if any(one.problems for one in done):
        raise typer.Exit(1)


def _taken(one: Taken) -> dict[str, Any]:
    assert one.point is not None
    return {
        "vault": one.vault,
        "point_id": str(one.point.id),
        "size": one.point.size,
        "objects": one.objects,
        "copied": one.copied,
        "bytes": one.bytes,
        "seconds": round(one.seconds, 3),
        "problems": one.problems,
    }


@app.command("list")
def backup_list(context: typer.Context, vault: VaultOption = None) -> None:
    """The recovery points that are kept, newest first; `rpo` is how old each is, in seconds."""
    from retention import backup

    with opened(context.obj) as archive:
        found, at = backup.listed(archive, vault), now()
    value = [_listed(one) | {"rpo": round((at - one.taken_at).total_seconds())} for one in found]
    rows = [
        [
            str(one.id),
            one.vault,
            f"{one.taken_at:%Y-%m-%d %H:%M}",
            f"{one.objects:,}",
            f"{one.bytes:,}",
            "never checked" if one.whole is None else "whole" if one.whole else "BROKEN",
        ]
        for one in found
    ]
    headings = ["point", "vault", "taken (UTC)", "objects", "bytes", "state"]
    _answer(context.obj, "points", value, lambda: table(headings, rows))


def _listed(one: Listed) -> dict[str, Any]:
    return {
        "vault": one.vault,
        "point_id": str(one.id),
        "taken_at": one.taken_at.isoformat(),
        "size": one.size,
        "objects": one.objects,
        "bytes": one.bytes,
        "checked_at": one.checked_at.isoformat() if one.checked_at else None,
        "whole": one.whole,
    }


@app.command("check")
def backup_check(
    context: typer.Context,
    vault: VaultOption = None,
    read_data: Annotated[
        float, typer.Option("--read-data", min=0, max=100, metavar="PERCENT", help="How many objects' bytes are read.")
    ] = 5.0,
) -> None:
    """Could the points be restored: signatures, pages, the ledger, every object with its size; of some the bytes.

    Exits 1 if something is missing or was changed, and names it."""
    from retention.backup import checking

    with opened(context.obj) as archive, progress("objects checked") as show:
        done = {name: checking.check(archive, name, read_data / 100, now(), show) for name in _named(archive, vault)}
    value = [_checked(name, one) for name, one in done.items()]

    def people() -> None:
        for one in value:
            for problem in one["problems"]:
                print(visible(problem))
            if one["more"]:
                print(f"and {one['more']:,} more")
            print(
                f"{one['vault']}: {len(one['whole']):,} points whole, {len(one['broken']) or 'none'} broken; "
                f"{one['objects']:,} objects, of which {one['read']:,} were read ({one['bytes']:,} bytes); "
                f"{one['left']:,} of no point"
            )

    _answer(context.obj, "vaults", value, people)
    if any(one["problems"] for one in value):
        raise typer.Exit(1)


def _checked(name: str, one: Checked) -> dict[str, Any]:
    return {
        "vault": name,
        "whole": [str(point) for point in one.whole],
        "broken": [str(point) for point in one.broken],
        "objects": one.objects,
        "read": one.read,
        "bytes": one.bytes,
        "left": one.left,
        "problems": one.problems,
        "more": one.more,
    }


@app.command("prune")
def backup_prune(
    context: typer.Context,
    vault: VaultOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")] = False,
    drop: Annotated[bool, typer.Option("--drop-broken", help="Points too that cannot be read any more.")] = False,
) -> None:
    """Take away the points that the schedule does not keep, with what no other point needs."""
    from retention.backup import pruning

    with opened(context.obj) as archive:
        done = {
            name: pruning.prune(archive, name, now(), only_say=dry_run, drop_broken=drop)
            for name in _named(archive, vault)
        }
    value = [_pruned(name, one) for name, one in done.items()]

    def people() -> None:
        for one in value:
            for point, reasons in one["kept"].items():
                print(f"{one['vault']}: {point} is kept: {', '.join(reasons)}")
            for point in one["points"]:
                print(f"{one['vault']}: {point} {'would go' if dry_run else 'is gone'}")
            print(f"{one['vault']}: {one['objects']:,} objects and {one['pages']:,} pages that nothing names are gone")

    _answer(context.obj, "vaults", value, people)


def _pruned(name: str, one: Pruned) -> dict[str, Any]:
    return {
        "vault": name,
        "kept": {str(point): list(reasons) for point, reasons in one.kept.items()},
        "points": [str(point) for point in one.points],
        "objects": one.objects,
        "pages": one.pages,
        "safes": one.safes,
        "uploads": one.uploads,
        "refused": one.refused,
    }


@app.command("leave")
def backup_leave(context: typer.Context, vault: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Let a second vault go: nothing more is written to it, and nothing waits for it. What is there stays."""
    from retention import backup

    with opened(context.obj) as archive:
        backup.leave(archive, vault, now())
    answer(context.obj, {"vault": vault, "left": True}, lambda: print(f"{vault} is no part of this archive any more"))


def _named(archive: Archive, vault: str | None) -> list[str]:
    if vault is not None:
        return [vault]
    if not archive.seconds:
        raise UsageError(
            "there is no second vault: set MUNIMENT_BACKUPS to name=file:///other/disk or name=s3://bucket/prefix, and "
            "run this again (docs/backup.md)."
        )
    return list(archive.seconds)


def _answer(chosen: Options, what: str, value: list[dict[str, Any]], people: Any) -> None:
    answer(chosen, {what: value}, people)

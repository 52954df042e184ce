"""`muniment key …`: the keys that records are sealed with.

Rules of this module: those of retention.cli.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retention.cli.command import answer, now, opened
from retention.errors import UsageError

if TYPE_CHECKING:
    from retention.custody import Rotated

app = typer.Typer(no_args_is_help=True, help="The keys of the key safe, and its root.")


@app.callback()
def keys() -> None:
    """The keys of the key safe."""


@app.command("rekey")
def key_rekey(context: typer.Context) -> None:
    """Give every bucket of keys that lost some a new key, and drop the old one: what was destroyed stays closed in old
    copies of the catalog too. To be run each night, and after a destruction that cannot wait.

    The keys of records that a lock keeps are written into the vault beside them, under the same lock. Exits 1 if one
    of these objects is not as it must be.

    Former root keys that nothing needs any more are dropped too. Copies of the key safe in second vaults keep the old
    key for seven days, and while no newer one was made."""
    from retention import custody, locked_keys, rekeying

    with opened(context.obj) as archive:
        done = rekeying.rekey(archive, now)
        kept = locked_keys.keep(archive, now)
        forgotten = custody.forget(archive, now)

    def people() -> None:
        print(
            f"{done.replaced:,} buckets replaced, {done.wrapped:,} keys wrapped anew, "
            f"{done.dropped:,} bucket keys dropped for good"
        )
        if done.busy:
            print(f"{done.busy:,} buckets or tables were in use, and are left for the next run")
        if kept.objects or kept.erased:
            print(f"{kept.keys:,} keys of locked records put beside them, {kept.erased:,} such objects erased")
        for key, said in kept.differ.items():
            print(f"{key}: {said}")
        for root in forgotten:
            print(f"former root key {root} dropped for good")

    value = {"replaced": done.replaced, "wrapped": done.wrapped, "dropped": done.dropped, "busy": done.busy}
    value |= {"locked_keys": kept.keys, "locked_keys_erased": kept.erased}
    named = {"locked_keys_differ": kept.differ, "former_roots": [str(one) for one in forgotten]}
    answer(context.obj, {**value, **named}, people)
    if done.busy or kept.differ:
        raise typer.Exit(1)


# ---------------------------------------------------------------- the root key


@app.command("rotate")
def key_rotate(context: typer.Context) -> None:
    """Replace the root key by a new one, kept where it is kept now. Content is not written anew.

    Afterwards renew what people keep: `muniment key escrow`. Exits 1 if a second vault has no copy of the safe yet that
    the new root opens."""
    from retention import custody

    with opened(context.obj) as archive:
        done = custody.rotate(archive, now, archive.safe.root.kms)
    _told(context, done)


@app.command("root")
def key_root(
    context: typer.Context,
    kms: Annotated[
        str | None, typer.Option(metavar="KEY", help="Id, ARN or alias of a symmetric key in AWS KMS.")
    ] = None,
    file: Annotated[bool, typer.Option("--file", help="In a file of this workspace.")] = False,
) -> None:
    """Replace the root key by a new one that is kept in AWS KMS, or in a file again."""
    from retention import custody

    if file == (kms is not None):
        raise UsageError("muniment key root: expected either --kms KEY or --file.")
    with opened(context.obj) as archive:
        done = custody.rotate(archive, now, kms)
    _told(context, done)


def _told(context: typer.Context, done: Rotated) -> None:
    def people() -> None:
        print(f"root key {done.root}, kept in {done.kept_in}, has replaced {done.replaced}")
        for name, why in done.waits.items():
            print(f"{name} has no copy of the key safe yet that it opens: {why}")
        if done.waits:
            print("Keep the former root key until `muniment backup run` has made one.")
        print("Shares and copies that people keep are of the former one: muniment key escrow")

    value = {"root": str(done.root), "replaced": str(done.replaced), "kept_in": done.kept_in, "waits": done.waits}
    answer(context.obj, value, people)
    if done.waits:
        raise typer.Exit(1)


@app.command("list")
def key_list(context: typer.Context) -> None:
    """The root key, who keeps it, and the roots before it: when each may go, and what needs it."""
    from retention import custody

    at = now()
    with opened(context.obj) as archive:
        found = custody.listed(archive)
    escrow = found.escrow

    def people() -> None:
        print(f"{found.root}  in use, kept in {found.kept_in}")
        if escrow.shared_at is None:
            print("  nobody has shares of it: muniment key escrow")
        else:
            of = "a root before it: make shares of this one" if escrow.stale else "it"
            print(f"  {escrow.holders} shares of {of}, made {escrow.shared_at:%Y-%m-%d}; {escrow.threshold} make it")
        for one in found.former:
            why = "; needed by " + ", ".join(one.kept_by) if one.kept_by else ""
            print(f"{one.id}  replaced {one.retired_at:%Y-%m-%d}, may go {one.term_ends:%Y-%m-%d}{why}")

    shared = escrow.shared_at and {
        "at": escrow.shared_at,
        "holders": escrow.holders,
        "threshold": escrow.threshold,
        "stale": escrow.stale,
    }
    former = [
        {
            "root": str(one.id),
            "retired_at": one.retired_at,
            "term_ends": one.term_ends,
            "kept_by": list(one.kept_by),
            "may_go": one.may_go(at),
        }
        for one in found.former
    ]
    value = {"root": str(found.root), "kept_in": found.kept_in, "tried_at": escrow.tried_at}
    answer(context.obj, {**value, "escrow": shared, "former": former}, people)


@app.command("escrow")
def key_escrow(
    context: typer.Context,
    holders: Annotated[int, typer.Option(metavar="N", help="How many people get a share.")],
    threshold: Annotated[int, typer.Option(metavar="K", help="How many of them make the root key.")],
    into: Annotated[Path, typer.Option("--into", metavar="DIR", help="A new folder, best on a disk in memory.")],
) -> None:
    """Split the root key among people: one file for each, of which enough make it once more (SLIP-39).

    Give each person one file, on paper or on a medium of their own, and delete the folder."""
    from retention import custody

    with opened(context.obj) as archive:
        paths = custody.escrow(archive, holders, threshold, into, now)
        root = archive.safe.root.id

    def people() -> None:
        for path in paths:
            print(path)
        print(f"{holders} shares of root key {root}; any {threshold} make it: muniment key recover")
        print(f"Give one to each holder, and delete {into}: all of them together are the root key.")

    value = {"root": str(root), "holders": holders, "threshold": threshold, "files": [str(path) for path in paths]}
    answer(context.obj, value, people)


@app.command("recover")
def key_recover(
    context: typer.Context,
    given: Annotated[list[Path], typer.Argument(metavar="SHARE…", help="Files of shares, or a folder of them.")],
    into: Annotated[Path, typer.Option("--into", metavar="DIR", help="The folder of keys, such as var/keys.")],
) -> None:
    """Make root.key once more from shares. Needs neither catalog nor vault."""
    from retention import custody

    root = custody.root_of(given)
    path = custody.recover(root, into)
    answer(context.obj, {"root": str(root.id), "file": str(path)}, lambda: print(f"{path}: root key {root.id}"))

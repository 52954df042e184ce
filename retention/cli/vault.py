"""`muniment fixity …`, `muniment vault …`: whether the vault still holds what was given to it.

Rules of this module: those of retention.cli.
"""

from __future__ import annotations

from typing import Annotated

import typer

from retention.cli.command import answer, now, opened, progress, table

fixity_app = typer.Typer(
    no_args_is_help=True, help="Fixity: documents read again and compared with their digests, keys unwrapped."
)
vault_app = typer.Typer(no_args_is_help=True, help="The vault: what policy asked of it, and what it does.")


@fixity_app.command("run")
def fixity_run(
    context: typer.Context,
    share: Annotated[
        float, typer.Option(min=0.0, max=100.0, metavar="PERCENT", help="How many, those read longest ago first.")
    ] = 2.0,
) -> None:
    """Read a share of all documents and descriptor objects again, every schedule, and unwrap that share of all keys:
    two percent a night is all in fifty.

    What is damaged is healed from a second vault that has it whole, a schedule from the catalog too. Exits 1 if one is
    damaged still, or a key does not unwrap, and names it."""
    from retention import fixity, unwrapping

    with opened(context.obj) as archive, progress("documents read") as show:
        done = fixity.run(archive, share / 100, now, show)
        tested = unwrapping.run(archive, share / 100, now)
    damaged = {str(subject): why for subject, why in sorted(done.damaged.items())}
    healed = {str(subject): name for subject, name in sorted(done.healed.items())}

    broken = {str(subject): why for subject, why in sorted(tested.damaged.items())}

    def people() -> None:
        for subject, why in broken.items():
            print(f"{subject}: {why}")
        for subject, why in damaged.items():
            print(f"{subject}: {why}" + (f" Healed from {healed[subject]}." if subject in healed else ""))
        said = f"{len(damaged) or 'none'} damaged, {len(healed) or 'none'} healed"
        read = f"{done.read:,} documents, {done.descriptors:,} descriptor objects and {done.schedules:,} schedules read"
        print(f"{read}, {done.bytes:,} bytes: {said}")
        print(f"{tested.keys:,} keys unwrapped, {len(broken) or 'none'} damaged")

    keys = {"unwrapped": tested.keys, "buckets": tested.buckets, "damaged": broken}
    counts = {"read": done.read, "descriptors": done.descriptors, "schedules": done.schedules, "bytes": done.bytes}
    answer(context.obj, {**counts, "damaged": damaged, "healed": healed, "keys": keys}, people)
    if done.left or broken:
        raise typer.Exit(1)


@vault_app.command("probe")
def vault_probe(context: typer.Context) -> None:
    """Try what a lock must withstand, on objects to throw away: whether this store keeps what it is told to lock.

    Exits 1 if it does not. That these credentials may lift governance locks is told, and is no failure of the store."""
    from retention import probing

    with opened(context.obj) as archive:
        found = probing.probe(archive, now())
        url = archive.vault.url
    enforced = {name: said is None for name, said in found.attempts.items()}

    def people() -> None:
        for name, said in found.attempts.items():
            print(f"{name}: {'withstood' if said is None else said}")
        if not enforced:
            print(f"{url} cannot lock: its locks bind Muniment alone. Classes that ask for WORM do not enter it.")

    answer(context.obj, {"enforced": enforced, "failed": found.failed}, people)
    if found.failed:
        raise typer.Exit(1)


@vault_app.command("sweep")
def vault_sweep(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Name the orphans, and erase none.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="How many may go; else 100, or one object in twenty.")
    ] = None,
) -> None:
    """Erase objects that a capture left behind which was cut off more than seven days ago, and that nothing knows."""
    from retention import orphans

    with opened(context.obj) as archive:
        found = orphans.find(archive, now())
        done = orphans.Swept() if dry_run else orphans.sweep(archive, found, now(), limit)

    def people() -> None:
        for one in found.orphans:
            print(f"{one.key}  {one.size:,} bytes")
        for key in done.kept:
            print(f"{key}: kept, for a lock or a hold is on it")
        said = f"{len(found.orphans) or 'none'} of {found.looked_at:,} objects are orphans"
        print(f"{said}; {done.erased or 'none'} erased, {done.bytes:,} bytes; {done.uploads or 'no'} uploads cut off")

    value = {
        "looked_at": found.looked_at,
        "orphans": [one.key for one in found.orphans],
        "erased": done.erased,
        "bytes": done.bytes,
        "kept": done.kept,
        "uploads": done.uploads,
    }
    answer(context.obj, value, people)


@vault_app.command("reconcile")
def vault_reconcile(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Every lock and hold, not tonight's share.")] = False,
) -> None:
    """Set the locks and legal holds that wait, and compare those that were set with what the vault says now.

    Exits 1 if something waits that failed, or differs, and names it."""
    from retention import locks
    from retention.holds import flags

    with opened(context.obj) as archive:
        set_locks, set_flags = locks.drain(archive, now()), flags.drain(archive, now())
        found = locks.reconcile(archive, now(), everything)
    failed = set_locks.failed + set_flags.failed
    queues = {
        name: {"set": done.set, "failed": done.failed, "waiting": done.waiting}
        for name, done in (("locks", set_locks), ("holds", set_flags))
    }
    differ = dict(sorted(found.differ.items()))

    def people() -> None:
        for key, said in differ.items():
            print(f"{key}: {said}")
        rows = [[name, *map(str, numbers.values())] for name, numbers in queues.items()]
        table(["", "set now", "failed", "waiting"], rows)
        print(f"{found.compared:,} objects compared with the vault, {len(differ) or 'none'} differ")

    answer(context.obj, {**queues, "compared": found.compared, "differ": differ}, people)
    if differ or failed:
        raise typer.Exit(1)

"""`muniment key …`: the keys that records are sealed with.

Rules of this module: those of retention.cli.
"""

from __future__ import annotations

import typer

from retention.cli.command import answer, now, opened

app = typer.Typer(no_args_is_help=True, help="The keys of the key safe.")


@app.callback()
def keys() -> None:
    """The keys of the key safe."""


@app.command("rekey")
def key_rekey(context: typer.Context) -> None:
    """Give every bucket of keys that lost some a new key, and drop the old one: what was destroyed stays closed in old
    copies of the catalog too. To be run each night, and after a destruction that cannot wait.

    Copies of the key safe in second vaults keep the old key for seven days, and while no newer one was made."""
    from retention import rekeying

    with opened(context.obj) as archive:
        done = rekeying.rekey(archive, now)

    def people() -> None:
        print(
            f"{done.replaced:,} buckets replaced, {done.wrapped:,} keys wrapped anew, "
            f"{done.dropped:,} bucket keys dropped for good"
        )
        if done.busy:
            print(f"{done.busy:,} buckets were in use, and are left for the next run")

    value = {"replaced": done.replaced, "wrapped": done.wrapped, "dropped": done.dropped, "busy": done.busy}
    answer(context.obj, value, people)
    if done.busy:
        raise typer.Exit(1)

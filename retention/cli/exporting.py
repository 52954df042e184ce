"""`muniment export …`: records handed out as files.

Rules of this module: those of retention.cli.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retention.cli.command import answer, identifier, opened, progress, reader, tell, visible


def export(
    context: typer.Context,
    records: Annotated[list[str], typer.Argument(metavar="RECORD…")],
    to: Annotated[Path, typer.Option("-o", "--output", metavar="PATH", help="A file; of several records, a folder.")],
    why: Annotated[str, typer.Option("--why", metavar="CODE", help="For the history: treatment, complaint, audit.")],
    recipient: Annotated[
        str | None, typer.Option("--to", metavar="NAME", help="Who gets it, for the accounting of disclosures; sealed.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Leave it sealed, and write what opens it with `age` here."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what stands there.")] = False,
) -> None:
    """Hand out records as they were captured, one as a file, several into a folder; an event says so before.

    Exits 1 if one could not be read, and names it."""
    from retention import exporting

    ids, asks = [identifier(one) for one in records], reader(why)
    place = exporting.Place(to, key, force)
    with opened(context.obj) as archive, progress("records handed out") as show:
        done = exporting.export(archive, ids, place, asks, recipient, show)
    value = {
        "records": [
            {"record_id": str(one), "path": file.path, "bytes": file.size, "sha256": file.sha256.hex()}
            for one, file in done.files.items()
        ],
        "key": None if key is None else str(key),
        "failed": [
            {"record_id": str(one.record_id), "code": one.code, "message": one.message} for one in done.findings
        ],
    }

    def people() -> None:
        for one, file in done.files.items():
            print(visible(f"{one}: {file.path}, {file.size:,} bytes, SHA-256 {file.sha256.hex()}"))
        for finding in done.findings:
            print(f"not handed out: {finding.message}")

    if key is not None:
        tell(f"muniment: whoever has {key} can open these copies for ever: destroying the record does not reach them.")
    answer(context.obj, value, people)
    if done.findings:
        raise typer.Exit(1)

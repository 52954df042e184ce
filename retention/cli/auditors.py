"""`muniment auditor …`: which classes of personal data an auditor's role of the database may read.

Rules of this module: those of retention.cli, and: the owner of the database does it (MUNIMENT_DATABASE_OWNER_URL).
"""

from __future__ import annotations

from typing import Annotated

import typer

from retention.cli.command import Options, answer, now, opened, table

app = typer.Typer(no_args_is_help=True, help="Which classes of personal data an auditor may read.")

RoleArgument = Annotated[str, typer.Argument(help="A role of the database; muniment_auditor for every auditor.")]


@app.command("open")
def auditor_open(context: typer.Context, role: RoleArgument, class_id: str) -> None:
    """Open a class to an auditor's role, as the owner of the database; an event says so."""
    from retention import auditors

    with opened(context.obj) as archive:
        _tell(context.obj, role, class_id, "open", auditors.open_class(archive, role, class_id, now()))


@app.command("close")
def auditor_close(context: typer.Context, role: RoleArgument, class_id: str) -> None:
    """Close it again. What was read was read."""
    from retention import auditors

    with opened(context.obj) as archive:
        _tell(context.obj, role, class_id, "closed", auditors.close_class(archive, role, class_id, now()))


def _tell(options: Options, role: str, class_id: str, state: str, changed: bool) -> None:
    said = f"{class_id} is {state} to {role}" + ("" if changed else ", as it was")
    value = {"role": role, "class": class_id, "open": state == "open", "changed": changed}
    answer(options, value, lambda: print(said))


@app.command("list")
def auditor_list(context: typer.Context) -> None:
    """What is open, to whom, since when; classes without personal data are open to all and not listed."""
    from retention import auditors

    with opened(context.obj) as archive:
        found = auditors.opened(archive)
    value = [{"role": role, "class": class_id, "since": at.isoformat()} for role, class_id, at in found]
    rows = [[role, class_id, f"{at:%Y-%m-%d %H:%M}"] for role, class_id, at in found]
    answer(context.obj, {"open": value}, lambda: table(["role", "class", "since"], rows))

"""`muniment ledger …`, `muniment verify`, `muniment proof`: the history as others check it.

Rules of this module: those of retention.cli, and:
- `verify --offline`, `proof --check` and `ledger cosign` are for machines that have neither workspace nor services:
  they open none, and import no client of one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retention.cli.command import answer, identifier, now, opened, progress, table, tell, visible
from retention.errors import UsageError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from retention.history.keys import LogKey
    from retention.history.offline import Verified
    from retention.history.proving import Checked
    from retention.tlog.note import Verifier
    from retention.verification import Verification

app = typer.Typer(no_args_is_help=True, help="The ledger: its keys, its publication, copies and witnesses of it.")

KeysOption = Annotated[
    list[str] | None, typer.Option("--key", metavar="VKEY", help="A public key of the log, as `ledger key` prints it.")
]
WitnessesOption = Annotated[
    list[str] | None,
    typer.Option("--witness", metavar="VKEY", help="A witness's public key, as `ledger cosign` prints it."),
]
KmsOption = Annotated[
    str | None, typer.Option("--kms", metavar="KEY", help="A key of AWS KMS (id, ARN or alias), not a new file.")
]
AuthoritiesOption = Annotated[
    list[Path] | None,
    typer.Option("--authority", metavar="PEM", help="Root certificate of an authority that gives time stamps."),
]


# ---------------------------------------------------------------- keys


@app.command("init")
def ledger_init(
    context: typer.Context,
    origin: Annotated[str, typer.Option(metavar="NAME", help="The log's name for ever: records.example.org/ledger.")],
    kms: KmsOption = None,
) -> None:
    """Make the key that signs the ledger. Give its public half (vkey) to the auditor."""
    from retention.history import keys

    with opened(context.obj) as archive:
        made = keys.create(archive, origin, now(), kms)
        _answer_key(context, made, archive.settings.keys)


@app.command("rotate")
def ledger_rotate(context: typer.Context, kms: KmsOption = None) -> None:
    """Make the next key; the present one hands over to it by an event that it signs."""
    from retention.history import keys

    with opened(context.obj) as archive:
        made = keys.rotate(archive, now(), kms)
        _answer_key(context, made, archive.settings.keys)


def _answer_key(context: typer.Context, key: LogKey, folder: Path) -> None:
    kind, _, where = key.kept_in.partition(":")
    value = {"number": key.number, "origin": key.origin, "vkey": key.verifier.vkey}
    value |= {"kms": where} if kind == "kms" else {"file": str(folder / where)}
    answer(context.obj, value, lambda: table(["", ""], [[name, str(said)] for name, said in value.items()]))


@app.command("key")
def ledger_key(context: typer.Context) -> None:
    """Every public key of the log; the last one signs."""
    from retention.database import transaction
    from retention.history import keys

    with opened(context.obj) as archive, transaction(archive.connections) as conn:
        keys.current(conn)
        known = keys.all_keys(conn)
    value = {
        "origin": known[0].origin,
        "keys": [{"number": k.number, "vkey": k.verifier.vkey, "kept_in": k.kept_in} for k in known],
    }

    def people() -> None:
        for key in known:
            print(key.number, key.verifier.vkey)

    answer(context.obj, value, people)


# ---------------------------------------------------------------- publishing and copies


@app.command("publish")
def ledger_publish(context: typer.Context) -> None:
    """Publish what the ledger has to the vault, with a signed checkpoint."""
    from retention.history import publishing

    with opened(context.obj) as archive, progress("events published") as show:
        done = publishing.publish(archive, now(), show)
    value = {"size": done.size, "root": done.root.hex(), "before": done.before, "tiles": done.tiles}

    def people() -> None:
        print(f"{done.size:,} events are published, {done.size - done.before:,} of them now, in {done.tiles:,} files")
        print(f"root {done.root.hex()}")

    answer(context.obj, value, people)


@app.command("export")
def ledger_export(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, or that of a former export.")],
    everything: Annotated[bool, typer.Option("--all", help="Read again what is there with the same size.")] = False,
) -> None:
    """Copy the published ledger to a folder for the auditor. Exits 1 if the vault lacks some of it."""
    from retention.history import export

    with opened(context.obj) as archive, progress("files of the ledger") as show:
        done = export.export(archive, folder, show, everything)
    value = {
        "path": str(folder),
        "size": done.size,
        "root": done.root.hex(),
        "files": done.files,
        "copied": done.copied,
        "bytes": done.bytes,
        "missing": done.missing,
    }

    def people() -> None:
        print(
            f"{folder}: {done.size:,} events in {done.files:,} files, {done.copied:,} copied now, {done.bytes:,} bytes"
        )
        for key in done.missing:
            print(f"missing in the vault: {key}")

    answer(context.obj, value, people)
    if done.missing:
        raise typer.Exit(1)


# ---------------------------------------------------------------- checks, on any machine


def verify(
    context: typer.Context,
    offline: Annotated[
        Path | None, typer.Option("--offline", metavar="DIR", help="An exported ledger; nothing else is read.")
    ] = None,
    keys: KeysOption = None,
    witnesses: WitnessesOption = None,
    documents: Annotated[
        float, typer.Option(min=0, max=100, metavar="PERCENT", help="How many documents are read, oldest check first.")
    ] = 100,
    enter: Annotated[bool, typer.Option("--enter", help="Say in the history that it was checked.")] = False,
    authorities: AuthoritiesOption = None,
) -> None:
    """Check the whole archive against its history: events, tables, sealed lines, keys, the vault.

    With --offline DIR --key VKEY an exported ledger alone: no server, no database, no network. Exits 1 if a single
    byte is not as it was signed or recorded, and names it. --witness VKEY checks the cosignatures too, --authority PEM
    the time stamps."""
    if offline is None:
        if witnesses or authorities:
            raise UsageError("--witness and --authority are for an exported ledger: give them with --offline DIR.")
        _verify_archive(context, _verifiers(keys) if keys else [], documents, enter)
        return
    from retention.history.offline import verify as check

    trusts = _verifiers(keys)
    with progress("entries verified") as show:
        roots = _certificates(authorities) if authorities else []
        found = check(offline, trusts, show, witnesses=_parsed(witnesses), authorities=roots)
    value = {
        "ok": found.ok,
        "origin": trusts[0].name,
        "size": found.size,
        "root": found.root.hex(),
        "signed_by": [str(key) for key in found.signed_by],
        "checkpoints": found.checkpoints,
        "cosigned": [
            {"witness": str(one.witness), "sizes": list(one.sizes), "time": _utc(one.time)} for one in found.cosigned
        ],
        "unchecked_cosignatures": found.unchecked,
        "stamped": {str(size): time.isoformat() for size, time in sorted(found.stamped.items())},
        "unchecked_time_stamps": found.unchecked_stamps,
        "problems": [{"path": problem.path, "said": problem.said} for problem in found.problems],
        "more": found.more,
    }

    def people() -> None:
        _print_problems(found)
        for one in found.cosigned:
            print(
                f"{len(one.sizes):,} checkpoints cosigned by {one.witness}, up to that of {one.sizes[-1]:,} events, "
                f"at {_utc(one.time)}"
            )
        if found.unchecked:
            print(f"{found.unchecked:,} cosignatures by others, not checked: give their public keys (`--witness`)")
        for size, time in sorted(found.stamped.items()):
            print(f"the checkpoint of {size:,} events was there at {time:%Y-%m-%d %H:%M:%S} UTC, says the authority")
        if found.unchecked_stamps:
            print(f"{found.unchecked_stamps:,} time stamps by others, not checked: give their roots (`--authority`)")
        said = "whole" if found.ok else f"NOT AS IT WAS SIGNED, {len(found.problems) + found.more:,} problems"
        print(f"{trusts[0].name}: {found.size:,} events, {found.checkpoints:,} signed checkpoints: {said}")
        print(f"root {found.root.hex()}" + "".join(f", signed by {key}" for key in found.signed_by))

    answer(context.obj, value, people)
    if not found.ok:
        raise typer.Exit(1)


def _print_problems(found: Verified | Verification) -> None:
    for problem in found.problems:
        print(visible(str(problem)))
    if found.more:
        print(f"and {found.more:,} more")


def _verify_archive(context: typer.Context, trusts: list[Verifier], documents: float, enter: bool) -> None:
    from retention import verification

    with opened(context.obj) as archive, progress("verified") as show:
        found = verification.verify(archive, trusts, documents / 100, lambda _, done, of: show(done, of))
        if enter:
            verification.enter(archive, found, now())
    value = {
        "ok": found.ok,
        "size": found.size,
        "root": found.root.hex(),
        "published": found.published,
        "checkpoints": found.checkpoints,
        "tables": found.tables,
        "problems": [{"where": problem.path, "said": problem.said} for problem in found.problems],
        "more": found.more,
    }

    def people() -> None:
        _print_problems(found)
        said = "whole" if found.ok else f"NOT AS IT WAS RECORDED, {len(found.problems) + found.more:,} problems"
        print(
            f"{found.size:,} events ({found.published:,} published, {found.checkpoints:,} signed checkpoints), "
            f"{found.tables:,} tables, {documents:g} % of the documents: {said}"
        )
        print(f"root {found.root.hex()}")

    answer(context.obj, value, people)
    if not found.ok:
        raise typer.Exit(1)


def proof(
    context: typer.Context,
    record: Annotated[str | None, typer.Argument(metavar="RECORD")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where it is written.")] = None,
    split: Annotated[
        Path | None,
        typer.Option("--split", metavar="DIR", help="For other clients: <position>.json and <position>.tlog-proof."),
    ] = None,
    check: Annotated[Path | None, typer.Option("--check", metavar="FILE", help="Check one instead, offline.")] = None,
    keys: KeysOption = None,
) -> None:
    """The published events of one record, each with its proof; or, with --check FILE --key VKEY, whether they hold."""
    if (record is None) == (check is None):
        raise UsageError(
            "proof: expected either RECORD, whose proof is wanted, or --check FILE, which is to be checked."
        )
    if check is not None:
        _check(context, check, _verifiers(keys))
        return
    if output is None and split is None:
        raise UsageError("proof: expected where to write it, -o FILE (or --split DIR).")
    from retention.history import proving

    with opened(context.obj) as archive:
        made = proving.prove(archive, identifier(str(record)))
    if output is not None:
        output.write_bytes(made.encode())
    if split is not None:
        proving.split(made, split)
    if made.unpublished:
        tell(f"{made.unpublished:,} newer events are not published yet, and not in it: `muniment ledger publish`.")
    paths = [str(path) for path in (output, split) if path is not None]
    value = {
        "record": str(made.record),
        "origin": made.origin,
        "size": made.size,
        "events": [one.position for one in made.events],
        "unpublished": made.unpublished,
        "paths": paths,
    }

    def people() -> None:
        written = " and ".join(paths)
        print(f"{written}: {len(made.events):,} events of {made.record}, proven in the {made.size:,} of {made.origin}")

    answer(context.obj, value, people)


def _check(context: typer.Context, file: Path, trusts: list[Verifier]) -> None:
    from retention.history import proving

    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{file}: not there. `muniment proof RECORD -o {file}` writes one.") from None
    found = proving.check(data, trusts, str(file))
    ok = not found.problems
    value = {
        "ok": ok,
        "record": found.record,
        "origin": found.origin,
        "size": found.size,
        "root": found.root.hex(),
        "signed_by": [str(key) for key in found.signed_by],
        "events": found.events,
        "problems": [{"path": place, "said": said} for place, said in found.problems],
    }

    def people() -> None:
        _print_events(found)
        for place, said in found.problems:
            print(visible(f"{place}: {said}"))
        said = "proven" if ok else f"NOT PROVEN, {len(found.problems):,} problems"
        print(f"{found.record}: {len(found.events):,} events in the {found.size:,} of {found.origin}: {said}")

    answer(context.obj, value, people)
    if not ok:
        raise typer.Exit(1)


def _print_events(found: Checked) -> None:
    for event in found.events:
        print(visible(f"{event['position']:>12,}  {event['time']}  {event['type']}  {event['outcome']}"))


def _verifiers(keys: list[str] | None) -> list[Verifier]:
    if not keys:
        raise UsageError(
            "expected --key VKEY, a public key of the log: `muniment ledger key` prints it on its machine."
        )
    return _parsed(keys)


def _parsed(keys: list[str] | None) -> list[Verifier]:
    from retention.tlog.note import parse_vkey

    return [parse_vkey(key) for key in keys or []]


def _utc(time: int) -> str:
    try:
        return datetime.fromtimestamp(time, UTC).isoformat()
    except (ValueError, OverflowError, OSError):  # a witness may sign any 63 bits
        return f"{time} s"


# ---------------------------------------------------------------- the auditor's witness


@app.command("cosign")
def ledger_cosign(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An exported ledger.")],
    key_file: Annotated[Path, typer.Option("--key-file", metavar="FILE", help="The witness's private key.")],
    state: Annotated[Path, typer.Option("--state", metavar="FILE", help="What the witness remembers.")],
    init: Annotated[
        str | None, typer.Option("--init", metavar="NAME", help="Make the witness first: auditor.example.org/witness.")
    ] = None,
    keys: KeysOption = None,
) -> None:
    """Cosign the checkpoint of an exported ledger, if it extends the last one that this witness saw.

    For the auditor's own machine. The log's --key is needed the first time, and after the log took another."""
    from retention.history import witness

    trusts = _verifiers(keys) if keys or init else []
    if init is not None:
        witness.create(folder, key_file, state, init, trusts)
    done = witness.cosign(folder, key_file, state, trusts, int(now().timestamp()))
    head = done.checkpoint
    value: dict[str, Any] = {
        "origin": head.origin,
        "size": head.size,
        "root": head.root.hex(),
        "finding": done.verdict.finding.value,
        "witness": done.witness.vkey,
        "cosignature": str(done.signature).rstrip("\n"),
    }

    def people() -> None:
        print(f"{folder / 'checkpoint'}: {done.verdict.reason}")
        print(value["cosignature"])
        print(f"witness {done.witness.vkey}")

    answer(context.obj, value, people)


@app.command("timestamp")
def ledger_timestamp(
    context: typer.Context,
    url: Annotated[str, typer.Option(envvar="MUNIMENT_TIMESTAMP_URL", metavar="URL", help="Of the authority.")],
    authorities: AuthoritiesOption = None,
) -> None:
    """Have an authority say by when the newest published checkpoint was there (RFC 3161); exports have the answer.

    It is sent a digest and nothing else."""
    from retention.history import timestamps

    if not authorities:
        raise UsageError("expected --authority FILE, the root certificate of the authority, from another source.")
    roots = _certificates(authorities)
    with opened(context.obj) as archive:
        done = timestamps.add(archive, url, roots, now())
    value = {"size": done.size, "time": done.time.isoformat(), "key": done.key, "new": done.new}
    said = "kept" if done.new else "one is kept already, which stands"
    answer(
        context.obj,
        value,
        lambda: print(f"{done.key}: {done.size:,} events, {done.time:%Y-%m-%d %H:%M:%S} UTC: {said}"),
    )


def _certificates(files: list[Path]) -> list[Certificate]:
    from retention.history.timestamps import certificates

    return [one for file in files for one in certificates(file)]


@app.command("add-cosignature")
def ledger_add_cosignature(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The `checkpoint` that the witness gave back.")],
    witnesses: WitnessesOption = None,
) -> None:
    """Keep a witness's cosignature beside the published checkpoint, for ever; exports have it.

    Refused is what does not verify, and a checkpoint that was never published."""
    if not witnesses:
        raise UsageError("expected --witness VKEY, the witness's public key: `muniment ledger cosign` prints it there.")
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise UsageError(
            f"{file}: not there. It is the `checkpoint` of the folder that the witness cosigned."
        ) from None
    from retention.history import cosignatures

    with opened(context.obj) as archive:
        kept = cosignatures.add(archive, data, _parsed(witnesses), now(), str(file))
    value = {
        "size": kept[0].checkpoint.size,
        "root": kept[0].checkpoint.root.hex(),
        "kept": [{"witness": str(one.witness), "time": _utc(one.time), "key": one.key, "new": one.new} for one in kept],
    }

    def people() -> None:
        for one in kept:
            said = "kept" if one.new else "one is kept already, which stands"
            print(f"{one.key}: cosigned by {one.witness} at {_utc(one.time)}: {said}")

    answer(context.obj, value, people)

"""A mistake at the command line is one message and an exit code; so is a machine that gives no more."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ingest import cli
from retention.cli.command import CHOSEN_ROOT
from retention.config import Settings
from retention.embedded import Services

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith("MUNIMENT_")},
    "PYTHONPATH": str(ROOT),
}


def muniment(*arguments: str | bytes, script: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line; `script` is Python that changes the world before it runs."""
    text = f"import ingest.cli as cli\nimport sys\n{textwrap.dedent(script)}\ncli.main()"
    return subprocess.run(
        [sys.executable, "-c", text, *arguments],
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.startswith("muniment: ")
    return done.stderr


FAILING = """
    import retention.policy
    def fail():
        raise {error}
    retention.policy.sample = fail
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("mistakes") / "var")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ingest", ""], "expected a path or URL, found an empty one"),
        (["ingest", "file://"], "expected file:///folder"),
        (["ingest"], "expected either PATH-OR-URL or --source"),
        (["report", "--format", ""], "--format: expected one or more of html,json,csv, found ''"),
        (["report", "--format", " , "], "--format: expected one or more of"),
        (["report", "--format", "html,pdf"], "found 'html,pdf'"),
        (["--agent", "", "status"], "--agent: expected the name"),
        (["--agent", " ", "status"], "--agent: expected the name"),
        (["show", "x"], "nothing is there yet"),
        (["nonsense"], "No such command"),
        (["schedule", "load", "/nowhere"], "cannot be read"),
    ],
)
def test_a_mistake_is_said_without_a_traceback(workspace: str, arguments: list[str], words: str) -> None:
    assert words in refused(muniment("--workspace", workspace, *arguments), 2)


@pytest.mark.parametrize("threads", ["²", "0", "1e3", "-1"])
def test_a_setting_that_is_no_number(workspace: str, threads: str) -> None:
    done = muniment("--workspace", workspace, "due", MUNIMENT_VAULT_THREADS=threads)
    assert "MUNIMENT_VAULT_THREADS: expected a whole number from 1 to 256" in refused(done, 2)


@pytest.mark.parametrize("url", ["postgresql://u:p%zzSECRET@localhost/db", "postgresql://u:pa/SECRET@localhost/db"])
def test_a_password_is_in_no_message(workspace: str, url: str) -> None:
    done = muniment("--workspace", workspace, "due", MUNIMENT_DATABASE_URL=url)
    assert "SECRET" not in refused(done, 2) + done.stdout


def test_names_that_are_not_utf8_are_printed(workspace: str, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.yaml"
    Path(os.fsdecode(name)).write_text("classes: []\n")
    done = muniment("--workspace", workspace, "schedule", "check", name)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "\\udcff.yaml" in done.stdout


def test_find_takes_any_bytes(settings: Settings, services: Services) -> None:
    script = f"""
        import retention.cli.command
        from pathlib import Path
        from retention.config import Settings
        found = Settings(Path({str(settings.root)!r}), {settings.database_url!r}, {settings.vault_url!r},
                         {settings.vault_access_key!r}, {settings.vault_secret_key!r})
        retention.cli.command.settings = lambda _: found
    """
    for arguments in ([b"\xff"], ["--class", b"\xff", "almonds"], ["\u05e9"]):
        done = muniment("--json", "find", *arguments, script=script)
        assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_the_sample_schedule_as_json_and_as_it_is(workspace: str) -> None:
    plain = muniment("--workspace", workspace, "schedule", "sample").stdout
    wrapped = json.loads(muniment("--workspace", workspace, "--json", "schedule", "sample").stdout)
    assert wrapped == {"schedule": plain} and plain.count("\n") > 50


@pytest.mark.parametrize("arguments", [["schedule", "sample"], ["--json", "schedule", "sample"], ["--help"]])
@pytest.mark.parametrize("buffering", ["", "1"])
def test_a_reader_that_has_enough_is_no_failure(arguments: list[str], buffering: str) -> None:
    read, write = os.pipe()
    os.close(read)
    environment = {**ENVIRONMENT, "PYTHONUNBUFFERED": buffering}
    command = [sys.executable, "-m", "ingest.cli", *arguments]
    done = subprocess.run(command, env=environment, stdout=write, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_work_goes_on_when_nobody_reads_its_progress() -> None:
    read, write = os.pipe()
    os.close(read)
    text = "import ingest.cli as cli\ncli.tell('one')\ncli.tell('two')\nprint('done')"
    done = subprocess.run(
        [sys.executable, "-c", text], env=ENVIRONMENT, stderr=write, stdout=subprocess.PIPE, check=False, timeout=60
    )
    os.close(write)
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_an_answer_that_could_not_be_written_is_not_a_success(workspace: str) -> None:
    command = [sys.executable, "-m", "ingest.cli", "schedule", "sample"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert done.returncode == 4 and "No space left on device" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        *((number, 4) for number in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)),
        *((number, 4) for number in (errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT)),
        *(
            (number, 2)
            for number in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EROFS)
        ),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) and value > 4 else str(value),
)
def test_an_error_of_the_system_is_for_the_one_who_must_act(
    error: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli._system(OSError(error, os.strerror(error), "/inbox/Cohen.pdf")) == code
    said = capsys.readouterr().err
    assert said.startswith(f"muniment: {os.strerror(error)}. ") and "Cohen" not in said


@pytest.mark.parametrize(
    ("place", "named"),
    [
        *(("keys/root.key", True), ("postgres/server.log", True), ("services.json", True), ("reports/x", False)),
        *(("keys/../inbox/x", False), ("../inbox/x", False), ("", False), ("spool/x", False)),
    ],
)
def test_a_file_is_named_where_its_name_is_ours(
    tmp_path: Path, place: str, named: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    before = CHOSEN_ROOT.set(tmp_path)
    try:
        assert cli._system(PermissionError(13, "Permission denied", f"{tmp_path}/{place}")) == 2
    finally:
        CHOSEN_ROOT.reset(before)
    assert capsys.readouterr().err.startswith(f"muniment: {tmp_path}/{place}: " if named else "muniment: Permission")


def test_the_workspace_is_known_to_the_one_who_words_the_error(workspace: str) -> None:
    made = f"PermissionError(13, 'Permission denied', {workspace + '/keys/root.key'!r})"
    done = muniment("--workspace", workspace, "schedule", "sample", script=FAILING.format(error=made))
    assert f"{workspace}/keys/root.key: Permission denied" in refused(done, 2)


def test_a_defect_is_seen_and_names_no_document(workspace: str) -> None:
    made = f"OSError({errno.EBADF}, 'Bad file descriptor', '/inbox/Cohen.pdf')"
    done = muniment("--workspace", workspace, "schedule", "sample", script=FAILING.format(error=made))
    assert done.returncode == 1 and "Traceback" in done.stderr and "Bad file descriptor" in done.stderr
    assert "OSError: [Errno 9] Bad file descriptor" in done.stderr and "'/inbox/Cohen.pdf'\n" not in done.stderr


@pytest.mark.parametrize("command", [["schedule", "sample"], ["schedule", "check", "/nowhere"]])
def test_a_signal_after_the_answer_changes_nothing(command: list[str]) -> None:
    """Python gives SIGTERM its deadly default back when it ends: the last thing that runs is told to stop."""
    script = """
        import atexit, os, signal
        class Last:
            def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGTERM):
                kill(pid, number)
        sys.modules["last"] = Last()
        atexit.register(os.kill, os.getpid(), signal.SIGTERM)
    """
    quiet, told = muniment(*command), muniment(*command, script=script)
    assert (told.returncode, told.stdout) == (quiet.returncode, quiet.stdout), told.stderr
    assert told.returncode in (0, 2) and "Traceback" not in told.stderr


def test_a_signal_before_the_answer_stops_it(workspace: str) -> None:
    script = f"""
        import os, time, retention.policy
        def sample():
            os.kill(os.getpid(), {signal.SIGTERM.value})
            time.sleep(10)
        retention.policy.sample = sample
    """
    assert "stopped. What was committed stands" in refused(muniment("schedule", "sample", script=script), 130)

"""The source file and `ingest PATH-OR-URL`: every mistake with its line, and no credential ever repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.sources import DEFAULT_EXCLUDE, SourceConfig, load_sources, source_at
from retention.errors import UsageError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sources.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(tmp_path: Path, text: str) -> list[str]:
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_sources(path, ("default", "health"))
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


def test_all_fields_and_their_defaults(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
sources:
  - name: clinic
    url: ./in box/מרפאה
    schedule: "*/15 6-20 * * 1-5"
    paused: true
    profile: health
    max_bytes: 1048576
    include: ["*.pdf", "scans/*"]
    exclude: []
    settle_seconds: 2.5
    after: keep
  - {name: accounts, url: "s3://papers/in/2026?region=eu-west-1&endpoint=http://127.0.0.1:9000"}
""",
    )
    clinic, accounts = load_sources(path, ("default", "health"))
    assert clinic == SourceConfig(
        name="clinic",
        url=(tmp_path / "in box" / "מרפאה").as_uri(),
        schedule="*/15 6-20 * * 1-5",
        paused=True,
        profile="health",
        max_bytes=1_048_576,
        include=("*.pdf", "scans/*"),
        exclude=(),
        settle_seconds=2.5,
    )
    assert accounts.url == "s3://papers/in/2026?endpoint=http://127.0.0.1:9000&region=eu-west-1"
    assert (accounts.schedule, accounts.paused, accounts.exclude) == (None, False, DEFAULT_EXCLUDE)
    assert accounts.settle_seconds == 5 and accounts.after == "keep"


def test_every_mistake_is_said_with_its_line(tmp_path: Path) -> None:
    assert mistakes(
        tmp_path,
        """sources:
  - name: Accounts Dept
    url: ./a
    colour: red
  - name: two
    url: ftp://host/x
    schedule: "61 * * * *"
    after: delete
  - name: two
    url: ./b
    max_bytes: 0
    profile: strict
  - just text
  - name: three
    paused: perhaps
    url: ./c
    settle_seconds: -1
other: 1
""",
    ) == [
        "2: name: expected at most 63 of a-z, 0-9 and '-', found 'Accounts Dept'",
        "4: colour: not known; expected one of name, url, schedule, paused, profile, max_bytes, include, "
        "exclude, settle_seconds, after",
        "6: url: expected a path or one of file://, s3://, found ftp://",
        "7: schedule: field 1: expected numbers from 0 to 59, found '61'",
        "8: after: 'delete' is not offered yet; expected 'keep': originals stay where they are",
        "11: max_bytes: Input should be greater than 0",
        "12: profile: expected one of default, health, found 'strict'",
        "13: expected a map with 'name' and 'url'",
        "15: paused: Input should be a valid boolean, unable to interpret input",
        "17: settle_seconds: Input should be greater than or equal to 0",
        "18: other: not known here; expected only 'sources'",
    ]


def test_name_is_taken_once(tmp_path: Path) -> None:
    text = "sources:\n- name: a\n  url: x\n- name: a\n  url: y\n"
    assert mistakes(tmp_path, text) == ["4: name: 'a' is taken by the source of line 2"]


@pytest.mark.parametrize("text", ["", "[]", "sources:", "sources: {a: b}", "sources: text"])
def test_file_without_a_list_says_what_is_expected(tmp_path: Path, text: str) -> None:
    assert mistakes(tmp_path, text) == ["1: expected 'sources:' and below it a list"]


@pytest.mark.parametrize("text", ["sources: [", "a: b: c", "sources: &a [*a]", "\tsources:"])
def test_broken_yaml_is_a_line_not_a_traceback(tmp_path: Path, text: str) -> None:
    assert mistakes(tmp_path, text)[0][:3] in ("1: ", "2: ")


@pytest.mark.parametrize("schedule", ["@daily", "* * * *", "* * * * * *", "0 2 * * 8", "5-1 * * * *", "*/0 * * * *"])
def test_schedule_that_cron_does_not_know(tmp_path: Path, schedule: str) -> None:
    (said,) = mistakes(tmp_path, f"sources:\n- name: a\n  url: x\n  schedule: '{schedule}'\n")
    assert said.startswith("4: schedule: ")


@pytest.mark.parametrize(
    "entry",
    [
        "url: s3://hunter2:hunter2@bucket/x",
        "url: https://u@host/hunter2",
        "url: s3://bucket/x?secret_access_key=hunter2",
        "url: s3://bucket/x?X-Amz-Signature=hunter2",
        "url: s3://bucket/x?endpoint=http://u:hunter2@host:1/",
        "{url: x, password: hunter2}",
        "{url: x, aws_secret_access_key: hunter2}",
        "{url: x, token: {a: hunter2}}",
    ],
)
def test_credential_is_refused_and_not_repeated(tmp_path: Path, entry: str) -> None:
    entry = entry if entry.startswith("{") else f"{{{entry}}}".replace("url: ", "url: '").replace("}", "'}")
    said = mistakes(tmp_path, f"sources:\n- {entry.replace('{', '{name: a, ', 1)}\n")
    assert "refusing to" in said[0] and "hunter2" not in str(said)


def test_source_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml does not exist"):
        load_sources(tmp_path / "none.yaml")


def test_source_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        load_sources(tmp_path / "s.yaml")


def test_ingest_path_takes_all_that_is_there_now(tmp_path: Path) -> None:
    config = source_at("in/../box", tmp_path)
    assert config.url == (tmp_path / "box").as_uri()
    assert (config.exclude, config.include, config.settle_seconds) == ((), (), 0)
    absolute = source_at(str(tmp_path), Path("/elsewhere"))
    assert (absolute.name, absolute.url) == (str(tmp_path), tmp_path.as_uri())


def test_ingest_url_is_its_name() -> None:
    url = "s3://bucket/in box?endpoint=http://localhost:1"
    assert source_at(url, Path("/")).name == url
    assert source_at(url, Path("/")).url == "s3://bucket/in%20box?endpoint=http://localhost:1"


@pytest.mark.parametrize(
    "url", ["file://host/x", "s3:///x", "s3://b:80/x", "s3://b/x?colour=red", "s3://b/x?endpoint=x", "gopher://x"]
)
def test_url_that_no_protocol_reads(url: str) -> None:
    with pytest.raises(UsageError, match=r"ingest: .*expected"):
        source_at(url, Path("/"))


@pytest.mark.parametrize("nothing", ["", "file://", "file://localhost"])
def test_an_empty_place_is_not_the_current_folder(tmp_path: Path, nothing: str) -> None:
    with pytest.raises(UsageError, match="found (an empty one|no folder)"):
        source_at(nothing, tmp_path)
    assert mistakes(tmp_path, f"sources:\n  - {{name: a, url: '{nothing}'}}\n")[0].startswith("2: url: expected")

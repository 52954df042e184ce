"""An S3 prefix as a source: the answers a server may give and who must act (moto stands in for the server).

What a real server does is tests/integration/test_source_s3.py.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import pytest
from moto import mock_aws

from ingest import sources
from ingest.model import SourceFile
from ingest.sources import LeftOut, SourceConfig, Unreadable, Why, s3, source_at
from retention.errors import MunimentError, NotFound, ServiceUnavailable, UsageError

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def no_connections_are_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    s3._connected.cache_clear()
    yield
    s3._connected.cache_clear()


@pytest.fixture
def bucket() -> Iterator[Any]:
    with mock_aws():
        made = boto3.resource("s3", region_name="us-east-1").Bucket("papers")
        made.create()
        yield made


def config(url: str = "s3://papers/in?region=us-east-1", **changes: Any) -> SourceConfig:
    return SourceConfig(name="box", url=url, **changes)


def listed(of: SourceConfig) -> tuple[list[str], list[tuple[str, Why]]]:
    left: list[LeftOut] = []
    places = [file.place for file in sources.discover(of, now=NOW, left_out=left.append)]
    return places, [(item.place, item.why) for item in left]


def test_prefix_is_a_folder_or_an_object_never_a_neighbour(bucket: Any) -> None:
    for key in ("in", "in/a", "in/b/c", "in2/x", "inner"):
        bucket.put_object(Key=key, Body=b"x")
    assert listed(config())[0] == ["in", "in/a", "in/b/c"]
    assert listed(config("s3://papers/in/?region=us-east-1"))[0] == ["in/a", "in/b/c"]
    assert listed(config("s3://papers/?region=us-east-1"))[0] == ["in", "in/a", "in/b/c", "in2/x", "inner"]
    assert listed(config("s3://papers/nothing?region=us-east-1")) == ([], [])


def test_patterns_hold_below_the_prefix_and_markers_are_said(bucket: Any) -> None:
    for key in ("in/", "in/.git/config", "in/a.PDF", "in/b.txt", "in/old/c.pdf", "in/sub/"):
        bucket.put_object(Key=key, Body=b"x" * (not key.endswith("/")))
    assert listed(config(include=("*.pdf",), exclude=(".*", "old"))) == (
        ["in/a.PDF"],
        [
            ("in/", Why.MARKER),
            ("in/.git/config", Why.EXCLUDED),
            ("in/b.txt", Why.EXCLUDED),
            ("in/old/c.pdf", Why.EXCLUDED),
            ("in/sub/", Why.MARKER),
        ],
    )


def test_revision_changes_with_the_bytes_and_not_without(bucket: Any) -> None:
    def only() -> SourceFile:
        (file,) = sources.discover(config(), now=NOW)
        return file

    bucket.put_object(Key="in/a", Body=b"one")
    first = only()
    assert first.revision and only() == first and (first.size, first.source) == (3, "box")
    assert first.modified is not None and first.modified.tzinfo is UTC
    bucket.put_object(Key="in/a", Body=b"two")
    assert only().revision != first.revision


@pytest.mark.parametrize("key", ["in/two\nlines", "in/%2F+ &?#", "in/חשבונית.pdf", "in/" + "x" * 1000, "in//a"])
def test_keys_are_any_text(bucket: Any, key: str) -> None:
    bucket.put_object(Key=key, Body=b"bytes")
    (file,) = sources.discover(config(), now=NOW)
    assert file.place == key
    with sources.open(config(), file) as stream:
        assert stream.read() == b"bytes"
    assert listed(source_at(f"s3://papers/{quote(key)}?region=us-east-1", Path("/")))[0] == [key]


def test_object_that_vanished(bucket: Any) -> None:
    with pytest.raises(NotFound, match=r"'in/gone' .*gone since it was listed"):
        sources.open(config(), SourceFile("box", "in/gone", 1, None))


def test_object_in_an_archive_tier_is_unreadable(bucket: Any) -> None:
    bucket.put_object(Key="in/cold", Body=b"x", StorageClass="GLACIER")
    (file,) = sources.discover(config(), now=NOW)
    with pytest.raises(Unreadable, match="InvalidObjectState"):
        sources.open(config(), file)


def test_bucket_that_does_not_exist_is_said_at_once(bucket: Any) -> None:
    with pytest.raises(UsageError, match="NoSuchBucket"):
        sources.discover(config("s3://elsewhere/in?region=us-east-1"), now=NOW)


def test_no_credentials_says_which(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="Set AWS_ACCESS_KEY_ID"):
        sources.discover(config("s3://papers/in?endpoint=http://127.0.0.1:1"), now=NOW)


@contextmanager
def server(answer: Callable[[str], bytes]) -> Iterator[str]:
    """A server that gives each request the raw answer for its first line, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    head = b""
                    while b"\r\n\r\n" not in head and (data := connection.recv(65_536)):
                        head += data
                    connection.sendall(answer(head.decode("latin-1").split("\r\n")[0]))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def refusal(status: int, code: str) -> bytes:
    body = f"<Error><Code>{code}</Code><Message>no to in/a</Message></Error>".encode()
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("status", "code", "at_listing", "at_open"),
    [
        (403, "AccessDenied", UsageError, Unreadable),
        (403, "SignatureDoesNotMatch", UsageError, UsageError),
        (403, "InvalidAccessKeyId", UsageError, UsageError),
        (404, "NoSuchBucket", UsageError, UsageError),
        (500, "InternalError", ServiceUnavailable, ServiceUnavailable),
        (503, "SlowDown", ServiceUnavailable, ServiceUnavailable),
    ],
)
def test_each_refusal_is_for_the_one_who_must_act(
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str,
    at_listing: type[MunimentError],
    at_open: type[MunimentError],
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # boto3 waits between attempts
    with server(lambda _: refusal(status, code)) as url:
        of = config(f"s3://papers/in?endpoint={url}")
        with pytest.raises(at_listing, match=code) as listing:
            sources.discover(of, now=NOW)
        with pytest.raises(at_open, match=code) as opening:
            sources.open(of, SourceFile("box", "in/a", 1, None))
    assert "hunter2" not in f"{listing.value}{opening.value}"
    assert at_open is Unreadable or "in/a" not in str(opening.value)  # it ends the batch, and stands in its log


def test_stream_that_breaks_off_is_not_a_short_document() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: x\r\nConnection: close\r\n\r\n"
    with server(lambda _: head + b"only this") as url:
        of = config(f"s3://papers/in?endpoint={url}")
        with (
            sources.open(of, SourceFile("box", "in/a", 1000, None)) as stream,
            pytest.raises(ServiceUnavailable, match="does not answer as expected") as caught,
        ):
            stream.read()
    assert "in/a" not in str(caught.value)


def test_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(ServiceUnavailable, match="Running again is safe"):
        sources.discover(config("s3://papers/in?endpoint=http://127.0.0.1:1"), now=NOW)
    with pytest.raises(ServiceUnavailable, match="endpoint connection error") as caught:
        sources.open(config("s3://papers/in?endpoint=http://127.0.0.1:1"), SourceFile("box", "in/Cohen", 1, None))
    assert "Cohen" not in str(caught.value)

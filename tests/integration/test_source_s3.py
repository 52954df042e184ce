"""An S3 prefix on a real server: listing in pages, streaming, revisions, and what is gone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ingest import sources
from ingest.model import SourceFile
from ingest.sources import LeftOut, SourceConfig, Why, s3, source_at
from retention.embedded import seaweedfs, state
from retention.errors import NotFound, ServiceUnavailable, UsageError

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[state.S3]:
    root = tmp_path_factory.mktemp("source-s3")
    try:
        services = seaweedfs.start(root, state.Services(root), lambda _: None)
        assert services.s3 is not None
        yield services.s3
    finally:
        seaweedfs.stop(root)


@pytest.fixture
def url(store: state.S3, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.secret_key)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    return f"s3://{store.bucket}/{{}}?endpoint=http://127.0.0.1:{store.port}"


def at(url: str, prefix: str) -> SourceConfig:
    return source_at(url.format(prefix), Path("/"))


def put(store: state.S3, objects: dict[str, bytes]) -> None:
    client = seaweedfs.client(store)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda kv: client.put_object(Bucket=store.bucket, Key=kv[0], Body=kv[1]), objects.items()))


def test_every_object_is_listed_once_and_read_as_it_is(store: state.S3, url: str) -> None:
    objects = {f"pages/{n % 7}/{n:05}.txt": f"number {n}".encode() for n in range(1_100)}
    names = ["pages/with space +%&#?.txt", "pages/חשבונית מס 12.pdf", "pages/" + "n" * 200]
    objects |= {name: name.encode() for name in names}
    put(store, {**objects, "pages2/neighbour": b"x"})
    of = at(url, "pages")
    files = list(sources.discover(of, now=NOW))
    assert sorted(file.place for file in files) == sorted(objects)
    assert [file.place for file in sources.discover(of, now=NOW)] == [file.place for file in files]
    for file in files[:20] + [file for file in files if file.place in names]:
        assert file.size == len(objects[file.place])
        with sources.open(of, file) as stream:
            assert stream.read() == objects[file.place]


def test_large_object_is_streamed(store: state.S3, url: str) -> None:
    content = os.urandom(20 * 1024 * 1024)
    put(store, {"large/a.bin": content})
    (file,) = sources.discover(at(url, "large/a.bin"), now=NOW)
    digest = hashlib.sha256()
    with sources.open(at(url, "large"), file) as stream:
        while piece := stream.read(64 * 1024):
            assert len(piece) <= 64 * 1024
            digest.update(piece)
    assert digest.digest() == hashlib.sha256(content).digest()


def test_revision_follows_the_bytes(store: state.S3, url: str) -> None:
    put(store, {"revised/a": b"one"})
    (first,) = sources.discover(at(url, "revised"), now=NOW)
    assert list(sources.discover(at(url, "revised"), now=NOW)) == [first]
    put(store, {"revised/a": b"two"})
    (second,) = sources.discover(at(url, "revised"), now=NOW)
    assert first.revision != second.revision and second.size == 3


def test_deleted_object_is_not_listed_and_not_found(store: state.S3, url: str) -> None:
    put(store, {"gone/a": b"x", "gone/b": b"y"})
    first, second = sources.discover(at(url, "gone"), now=NOW)
    seaweedfs.client(store).delete_object(Bucket=store.bucket, Key="gone/a")
    assert list(sources.discover(at(url, "gone"), now=NOW)) == [second]
    with pytest.raises(NotFound, match="gone since it was listed"):
        sources.open(at(url, "gone"), first)


def test_marker_of_a_folder_is_said(store: state.S3, url: str) -> None:
    put(store, {"marked/": b"", "marked/a": b"x"})
    left: list[LeftOut] = []
    files = list(sources.discover(at(url, "marked/"), now=NOW, left_out=left.append))
    assert [file.place for file in files] == ["marked/a"]
    assert all(item.why is Why.MARKER for item in left)


def test_wrong_bucket_and_wrong_key(store: state.S3, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="NoSuchBucket"):
        sources.discover(at(url.replace(store.bucket, "elsewhere", 1), "x"), now=NOW)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3._connected.cache_clear()
    with pytest.raises(UsageError, match="SignatureDoesNotMatch"):
        sources.discover(at(url, "x"), now=NOW)
    s3._connected.cache_clear()


def test_server_that_stopped(url: str) -> None:
    nobody = "s3://papers/x?endpoint=http://127.0.0.1:1"
    with pytest.raises(ServiceUnavailable, match="Running again is safe"):
        sources.discover(source_at(nobody, Path("/")), now=NOW)
    with pytest.raises(ServiceUnavailable, match="Running again is safe"):
        sources.open(source_at(nobody, Path("/")), SourceFile("x", "x/a", 1, None))

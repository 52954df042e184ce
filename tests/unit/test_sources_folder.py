"""A folder as a source: all that is in it is listed or said, nothing is followed out, nothing hangs."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ingest import sources
from ingest.model import Finding, SourceFile, Spooled
from ingest.sources import LeftOut, SourceConfig, Unreadable, Why, source_at
from ingest.spool import spool
from retention.errors import NotFound, ServiceUnavailable, UsageError

NOW = datetime.now(UTC)


def config(root: Path, **changes: Any) -> SourceConfig:
    return SourceConfig(name="box", url=root.as_uri(), **{"settle_seconds": 0, **changes})


def listed(of: SourceConfig, now: datetime = NOW) -> tuple[list[str], list[tuple[str, Why]]]:
    left: list[LeftOut] = []
    places = [file.place for file in sources.discover(of, now=now, left_out=left.append)]
    return places, [(item.place, item.why) for item in left]


def write(root: Path, *places: str) -> None:
    for place in places:
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(place.encode("utf-8", "surrogateescape"))


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Permissions mean nothing to root; act as nobody, if root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that another user may pass through; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_files_are_listed_in_bytewise_order_with_size_and_time(tmp_path: Path) -> None:
    write(tmp_path, "b", "a/z", "a.txt", "a/b/c", "חשבונית.pdf", "B")
    os.utime(tmp_path / "b", (0, 1_000_000_000))
    places, left = listed(config(tmp_path))
    assert places == ["B", "a.txt", "a/b/c", "a/z", "b", "חשבונית.pdf"] and left == []
    assert places == sorted(places, key=os.fsencode)
    file = next(file for file in sources.discover(config(tmp_path), now=NOW) if file.place == "b")
    assert file == SourceFile("box", "b", 1, datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC), None)


def test_open_gives_the_bytes(tmp_path: Path) -> None:
    write(tmp_path, "a/b/c")
    (file,) = sources.discover(config(tmp_path), now=NOW)
    with sources.open(config(tmp_path), file) as stream:
        assert stream.read() == b"a/b/c"


def test_one_file_is_a_source_too(tmp_path: Path) -> None:
    write(tmp_path, "a b#%.txt")
    of = source_at(str(tmp_path / "a b#%.txt"), tmp_path)
    (file,) = sources.discover(of, now=NOW)
    assert (file.place, file.size) == ("a b#%.txt", 9)
    with sources.open(of, file) as stream:
        assert stream.read() == b"a b#%.txt"


def test_names_are_bytes(tmp_path: Path) -> None:
    names = [b"caf\xe9.txt", b"two\nlines", b"x" * 255, b"\xff\xfe", b"-rf", b" "]
    folder = os.fsdecode(b"d\xfcr")
    (tmp_path / folder).mkdir()
    for name in names:
        Path(tmp_path, folder, os.fsdecode(name)).write_bytes(name)
    of = config(tmp_path / folder, exclude=())
    for file in (found := list(sources.discover(of, now=NOW))):
        with sources.open(of, file) as stream:
            assert stream.read() == os.fsencode(file.place)
    assert sorted(os.fsencode(file.place) for file in found) == sorted(names)


def test_empty_folder_and_deep_folder(tmp_path: Path) -> None:
    assert listed(config(tmp_path)) == ([], [])
    handle = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1_100):  # far beyond what one path may name, and what recursion may reach
        os.mkdir("deep", dir_fd=handle)
        below = os.open("deep", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = below
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
    os.close(handle)
    (file,) = sources.discover(config(tmp_path), now=NOW)
    assert file.place == "deep/" * 1_100 + "leaf"
    sources.open(config(tmp_path), file).close()
    subprocess.run(["rm", "-rf", tmp_path / "deep"], check=True)  # shutil recurses too deep for it


def test_links_are_said_and_never_followed(tmp_path: Path) -> None:
    write(tmp_path, "outside/secret", "box/real")
    box = tmp_path / "box"
    (box / "link").symlink_to(tmp_path / "outside" / "secret")
    (box / "folder").symlink_to(tmp_path / "outside")
    (box / "loop").symlink_to(box)
    (box / "dangling").symlink_to("nowhere")
    links = [(name, Why.LINK) for name in ("dangling", "folder", "link", "loop")]
    assert listed(config(box)) == (["real"], links)


@pytest.mark.parametrize("place", ["link", "folder/secret", "../outside/secret", "sub/../../outside/secret", ".."])
def test_open_never_leaves_the_folder(tmp_path: Path, place: str) -> None:
    """What was listed as a file may be a link by the time it is opened."""
    write(tmp_path, "outside/secret", "box/sub/x")
    (tmp_path / "box" / "link").symlink_to(tmp_path / "outside" / "secret")
    (tmp_path / "box" / "folder").symlink_to(tmp_path / "outside")
    with pytest.raises((Unreadable, NotFound)):
        sources.open(config(tmp_path / "box"), SourceFile("box", place, 1, None))


def test_root_may_be_a_link_that_the_operator_named(tmp_path: Path) -> None:
    write(tmp_path, "real/a")
    (tmp_path / "named").symlink_to(tmp_path / "real")
    of = config(tmp_path / "named")
    (file,) = sources.discover(of, now=NOW)
    with sources.open(of, file) as stream:
        assert stream.read() == b"real/a"


def test_special_files_are_listed_and_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "sock"))
        places, _ = listed(config(tmp_path))
        assert places == ["fifo", "sock"]
        for place, kind in (("fifo", "a named pipe"), ("sock", "a socket")):
            with pytest.raises(Unreadable, match=f"'{place}' of source 'box' .*found {kind}"):
                sources.open(config(tmp_path), SourceFile("box", place, 0, None))
    with pytest.raises(Unreadable, match="found a device"):
        sources.open(config(Path("/dev")), SourceFile("box", "null", 0, None))


def test_fifo_as_the_source_itself_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    of = config(tmp_path / "fifo")
    (file,) = sources.discover(of, now=NOW)
    with pytest.raises(Unreadable, match="a named pipe"):
        sources.open(of, file)


def test_unreadable_file_and_folder_are_items(shared: Path) -> None:
    write(shared, "box/closed/inside", "box/file", "box/open/x")
    (shared / "box").chmod(0o755)
    (shared / "box/open").chmod(0o755)
    (shared / "box/closed").chmod(0)
    (shared / "box/file").chmod(0)
    of = config(shared / "box")
    with ordinary_user():
        found = list(sources.discover(of, now=NOW))
        assert [file.place for file in found] == ["closed/", "file", "open/x"]
        for file in found[:2]:
            with pytest.raises(Unreadable, match="Permission denied"):
                sources.open(of, file)
    (shared / "box/closed").chmod(0o700)


def test_folder_that_may_be_read_by_now_is_still_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(Unreadable, match="could not be listed"):
        sources.open(config(tmp_path), SourceFile("box", "sub/", 0, None))


def test_file_and_folder_that_vanish(tmp_path: Path) -> None:
    write(tmp_path, "a", "b/c", "d")
    items = sources.discover(config(tmp_path), now=NOW)
    first = next(items)
    subprocess.run(["rm", "-r", tmp_path / "a", tmp_path / "b"], check=True)
    rest = list(items)
    assert [file.place for file in rest] == ["b/", "d"]
    for gone in (first, rest[0]):
        with pytest.raises(NotFound, match="gone since it was listed"):
            sources.open(config(tmp_path), gone)


def test_folder_that_becomes_a_link_is_not_walked(tmp_path: Path) -> None:
    write(tmp_path, "box/a", "box/b/c", "outside/secret")
    items = sources.discover(config(tmp_path / "box"), now=NOW)
    next(items)
    (tmp_path / "box/b").rename(tmp_path / "elsewhere")
    (tmp_path / "box/b").symlink_to(tmp_path / "outside")
    (rest,) = items
    assert rest.place == "b/"
    with pytest.raises((Unreadable, NotFound)):
        sources.open(config(tmp_path / "box"), rest)


def test_folder_that_does_not_exist_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"source 'box': .*nowhere cannot be read: No such file") as caught:
        sources.discover(config(tmp_path / "nowhere"), now=NOW)
    assert "correct the path, or mount it" in str(caught.value)


def test_root_that_may_not_be_listed_is_said_at_once(shared: Path) -> None:
    (shared / "box").mkdir(mode=0)
    with ordinary_user(), pytest.raises(UsageError, match="Permission denied"):
        sources.discover(config(shared / "box"), now=NOW)


def test_file_still_being_written_is_left_for_the_next_run(tmp_path: Path) -> None:
    write(tmp_path, "old", "new")
    of = config(tmp_path, settle_seconds=30)
    changed = datetime.fromtimestamp((tmp_path / "new").stat().st_ctime, UTC)
    assert listed(of, changed + timedelta(seconds=29))[0] == []
    places, left = listed(of, changed + timedelta(seconds=31))
    assert (places, left) == (["new", "old"], [])
    os.utime(tmp_path / "old", (0, 0))  # as `cp -p` does: an old time on a file that is being written
    assert listed(of, changed + timedelta(seconds=1))[1] == [("new", Why.UNSETTLED), ("old", Why.UNSETTLED)]


def test_clock_of_the_file_server_ahead_does_not_hold_files_back(tmp_path: Path) -> None:
    write(tmp_path, "a")
    an_hour_behind = datetime.now(UTC) - timedelta(hours=1)
    assert listed(config(tmp_path, settle_seconds=30), an_hour_behind)[0] == ["a"]


def test_time_beyond_the_calendar_is_no_time(tmp_path: Path) -> None:
    write(tmp_path, "a")
    try:
        os.utime(tmp_path / "a", (0, 2**38))
    except OverflowError:  # the file system itself knows no such time
        return
    (file,) = sources.discover(config(tmp_path), now=NOW)
    assert file.modified is None or file.modified.year > 2038


def test_patterns(tmp_path: Path) -> None:
    write(tmp_path, ".git/config", "~$a.docx", "A.PDF", "a.pdf.part", "b.txt", "old/a.pdf", "scans/x/1.TIF")
    of = config(tmp_path, include=("*.pdf", "scans/*"), exclude=(*sources.DEFAULT_EXCLUDE, "old"))
    assert listed(of) == (
        ["A.PDF", "scans/x/1.TIF"],
        [(name, Why.EXCLUDED) for name in (".git/", "a.pdf.part", "b.txt", "old/", "~$a.docx")],
    )


def test_the_workspace_is_left_out_wherever_it_lies_and_whatever_it_is_called(tmp_path: Path) -> None:
    write(tmp_path, "a", "deep/var/keys/root.key", "deep/var/spool/x", "deep/b", "var/c")
    left: list[LeftOut] = []
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "var")
    found = sources.discover(config(tmp_path), now=NOW, left_out=left.append, never=tmp_path / "link")
    assert [file.place for file in found] == ["a", "deep/b", "var/c"]
    assert LeftOut("box", "deep/var/", Why.WORKSPACE) in left


@pytest.mark.parametrize("place", ["var", "var/inbox", "var/inbox/a", "way/inbox", "way/inbox/a", "way"])
def test_a_source_inside_the_workspace_is_refused(tmp_path: Path, place: str) -> None:
    write(tmp_path, "var/inbox/a")
    (tmp_path / "way").symlink_to(tmp_path / "var")
    with pytest.raises(UsageError, match=r"^refusing to ingest .*: it is inside the workspace"):
        sources.discover(source_at(place, tmp_path), now=NOW, never=tmp_path / "var")
    assert listed(source_at(place, tmp_path))[0]  # it is the workspace that is refused, not the folder


def test_a_workspace_that_is_not_there_yet_hides_nothing(tmp_path: Path) -> None:
    write(tmp_path, "a")
    assert [file.place for file in sources.discover(config(tmp_path), now=NOW, never=tmp_path / "var")] == ["a"]


@contextmanager
def no_more_files() -> Iterator[None]:
    """As if the limit of open files had been reached: the next `open` is refused by the kernel."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_more_open_files_is_not_a_fault_of_the_source(tmp_path: Path) -> None:
    write(tmp_path, "a", "b/c")
    listing = sources.discover(config(tmp_path), now=NOW)
    file = next(listing)
    with no_more_files():
        for attempt in (
            lambda: sources.discover(config(tmp_path), now=NOW),
            lambda: next(listing),
            lambda: sources.open(config(tmp_path), file),
        ):
            with pytest.raises(ServiceUnavailable, match=r"Too many open files.*ulimit -n"):
                attempt()


def test_what_is_refused_is_a_finding_of_that_document_and_the_rest_is_read(shared: Path) -> None:
    write(shared, "a", "closed.txt", "locked/x")
    os.mkfifo(shared / "pipe")
    (shared / "closed.txt").chmod(0)
    (shared / "locked").chmod(0)
    scratch = Path(tempfile.mkdtemp())
    scratch.chmod(0o777)
    of = config(shared)
    with ordinary_user():
        files = list(sources.discover(of, now=NOW))
        found = {file.place: spool(partial(sources.open, of, file), file, scratch, 1000) for file in files}
        said = {place: f"{one.code} {one.message}" for place, one in found.items() if isinstance(one, Finding)}
    assert said == {
        "closed.txt": "UNREADABLE Reading failed: Permission denied.",
        "locked/": "UNREADABLE Reading failed: Permission denied.",
        "pipe": "UNREADABLE Reading failed: expected a file, found a named pipe.",
    }
    assert isinstance(found["a"], Spooled)
    shutil.rmtree(scratch)
    (shared / "locked").chmod(0o755)

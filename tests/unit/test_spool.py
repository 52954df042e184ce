"""The spool: bytes come whole or with a finding, under names of our own, and a full disk is said plainly."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from ingest.model import Finding, SourceFile, Spooled
from ingest.spool import CHUNK, check_space, spool
from retention.errors import NotFound, ServiceUnavailable

ROOT = Path(__file__).resolve().parents[2]
CONTENT = os.urandom(CHUNK + 17)


def listed(size: int = len(CONTENT)) -> SourceFile:
    return SourceFile("inbox", "dir/../../etc/na\nme.pdf", size, None)


class Unreliable(io.BytesIO):
    """A stream that fails after its first chunk."""

    def __init__(self, error: Exception) -> None:
        super().__init__(CONTENT)
        self.error = error

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell():
            raise self.error
        return super().read(size)


def raising(error: Exception) -> Callable[[], BinaryIO]:
    def open_stream() -> BinaryIO:
        raise error

    return open_stream


def test_a_copy_is_whole_hashed_and_private(tmp_path: Path) -> None:
    result = spool(lambda: io.BytesIO(CONTENT), listed(), tmp_path, 10 * CHUNK)
    assert isinstance(result, Spooled)
    assert result.path.read_bytes() == CONTENT
    assert result.sha256 == hashlib.sha256(CONTENT).digest()
    assert result.size == len(CONTENT)
    assert result.path.parent == tmp_path
    assert "name" not in result.path.name and "\n" not in result.path.name
    assert result.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("code", "open_stream", "size"),
    [
        ("EMPTY", lambda: io.BytesIO(b""), 0),
        ("EMPTY", lambda: io.BytesIO(b""), 5),
        ("TOO-LARGE", lambda: io.BytesIO(CONTENT), 3 * CHUNK),
        ("TOO-LARGE", lambda: io.BytesIO(CONTENT * 3), 5),
        ("VANISHED", raising(FileNotFoundError(2, "No such file")), 5),
        ("VANISHED", raising(NotFound("no such object")), 5),
        ("VANISHED", lambda: Unreliable(NotFound("no such object")), len(CONTENT)),
        ("UNREADABLE", raising(PermissionError(13, "Permission denied", "/secret/name")), 5),
        ("UNREADABLE", lambda: Unreliable(OSError(5, "Input/output error")), len(CONTENT)),
        ("CHANGED-WHILE-READ", lambda: io.BytesIO(CONTENT + b"more"), len(CONTENT)),
        ("CHANGED-WHILE-READ", lambda: io.BytesIO(CONTENT[:-1]), len(CONTENT)),
    ],
)
def test_what_is_wrong_with_one_document_is_its_finding(
    code: str, open_stream: Callable[[], BinaryIO], size: int, tmp_path: Path
) -> None:
    result = spool(open_stream, listed(size), tmp_path, 2 * CHUNK)
    assert isinstance(result, Finding)
    assert result.code == code
    assert "/secret/name" not in result.message
    assert list(tmp_path.iterdir()) == []  # nothing unfinished stays


def test_a_source_that_does_not_answer_is_not_a_fault_of_the_document(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable, match="bucket"):
        spool(raising(ServiceUnavailable("bucket x does not answer")), listed(), tmp_path, 10 * CHUNK)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_machine_at_its_limit_is_not_a_fault_of_the_document(code: int, tmp_path: Path) -> None:
    error = OSError(code, os.strerror(code), "/secret/name")
    openings: list[Callable[[], BinaryIO]] = [raising(error), lambda: Unreliable(error)]
    for open_stream in openings:
        with pytest.raises(ServiceUnavailable, match="ulimit -n") as caught:
            spool(open_stream, listed(), tmp_path, 10 * CHUNK)
        assert "/secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_more_is_read_than_the_limit(tmp_path: Path) -> None:
    endless = io.BytesIO(bytes(50 * CHUNK))
    spool(lambda: endless, listed(5), tmp_path, 2 * CHUNK)
    # The stream is closed by spool; what matters is that it was not read to its end.
    assert endless.closed


def test_a_full_disk_is_said_once_plainly_and_leaves_nothing(tmp_path: Path) -> None:
    """A real ENOSPC: a file-size limit gives EFBIG, so a tiny tmpfs would need root; /dev/full needs neither."""
    script = (
        "import io, os, sys\n"
        "from pathlib import Path\n"
        "import ingest.spool as spool\n"
        "from ingest.model import SourceFile\n"
        "from retention.errors import ServiceUnavailable\n"
        "make = spool._create\n"
        "def full(folder):\n"
        "    path, descriptor = make(folder)\n"
        "    os.dup2(os.open('/dev/full', os.O_WRONLY), descriptor)\n"
        "    return path, descriptor\n"
        "spool._create = full\n"
        "try:\n"
        "    spool.spool(lambda: io.BytesIO(b'x'), SourceFile('s', 'p', 1, None), Path(sys.argv[1]), 9)\n"
        "except ServiceUnavailable as error:\n"
        "    print(error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.startswith(f"disk full: spool folder {tmp_path}")
    assert "free" in said and "run again" in said
    assert list(tmp_path.iterdir()) == []


def test_space_is_looked_for_before_a_batch(tmp_path: Path) -> None:
    check_space(tmp_path, 1, reserve=0)
    with pytest.raises(ServiceUnavailable) as refused:
        check_space(tmp_path, 10**18)
    for part in (str(tmp_path), "needed", "free", "run again"):
        assert part in str(refused.value)

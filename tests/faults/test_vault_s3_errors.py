"""An S3 store that misbehaves: each request failed and not persisted, failed but persisted, and answered wrongly.

SeaweedFS stands behind a proxy that does what a test says.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from retention.errors import Damaged, MunimentError, NotFound, Refused, ServiceUnavailable, UsageError
from retention.vault import ensure_vault, s3_content, s3_requests, s3_versions
from retention.vault.base import Lock, LockMode, Stored
from retention.vault.s3 import S3Vault
from retention.vault.s3_probe import ATTEMPTS
from retention.vault.s3_requests import Place, connect, place_of
from retention.vault.s3_wire import connect_wire
from tests.conformance.stores import Server, Store, running_seaweedfs

KEY = "records/0192f0a1-7e57-7000-8000-000000000001/5f2b"
CONTENT = b"a document kept as evidence of a right" * 100
DENIED = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
UNTOUCHED = ("connection", "content-length", "transfer-encoding")
BUSY = b"<Error><Code>SlowDown</Code><Message>later</Message></Error>"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Seen:
    method: str
    path: str

    def is_put(self) -> bool:
        return self.method == "PUT" and "?" not in self.path and "/records/" in self.path

    def is_read(self) -> bool:
        return self.method == "GET" and "/records/" in self.path and "retention" not in self.path


@dataclass
class Proxy:
    """What comes by, and what is done to it: `before` may answer in the store's place (None: the connection
    closes), `after` may change the answer (None: it is lost, and the request persisted)."""

    endpoint: str = ""
    access_key: str = ""
    secret_key: str = ""
    before: Callable[[Seen], Answer | str | None] = lambda _: "forward"
    after: Callable[[Seen, Answer], Answer | None] = lambda _, answer: answer
    seen: list[Seen] = field(default_factory=list)

    def count(self, which: Callable[[Seen], bool]) -> int:
        return sum(1 for each in self.seen if which(each))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as running:
        url = f"s3://ready?endpoint={running.endpoint}&region=us-east-1"
        Store("seaweedfs", url, running.access_key, running.secret_key).make()
        yield running


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    rules = Proxy()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen = Seen(self.command, self.path)
            rules.seen.append(seen)
            answer = rules.before(seen)
            if isinstance(answer, str):
                answer = rules.after(seen, forward(self, body))
            if answer is None:
                self.close_connection = True
                return
            lines = [f"HTTP/1.1 {answer.status} X", *(f"{name}: {value}" for name, value in answer.headers.items())]
            self.wfile.write("\r\n".join([*lines, "", ""]).encode() + answer.body)
            self.wfile.flush()
            announced = int(answer.headers.get("Content-Length", "0"))
            self.close_connection = self.command != "HEAD" and announced > len(answer.body)

    def forward(request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        # With the Host that was signed.
        to_store = HTTPConnection(urlsplit(server.endpoint).netloc, timeout=20)
        to_store.request(request.command, request.path, body, dict(request.headers))
        answer = to_store.getresponse()
        content = answer.read()
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in UNTOUCHED}
        length = answer.getheader("Content-Length") or "0" if request.command == "HEAD" else str(len(content))
        to_store.close()
        return Answer(answer.status, {**kept, "Content-Length": length}, content)

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    rules.access_key, rules.secret_key = server.access_key, server.secret_key
    rules.endpoint = f"http://127.0.0.1:{listener.server_port}"
    yield rules
    listener.shutdown()
    listener.server_close()


@pytest.fixture
def place(proxy: Proxy) -> Place:
    """Impatient, so that what is retried is retried at once."""
    url = f"s3://ready/{uuid.uuid4().hex[:12]}?endpoint={proxy.endpoint}&region=us-east-1"
    return replace(place_of(url), first_wait=0.001, attempts=4, read_timeout=10.0, connect_timeout=5.0)


def opened(place: Place, proxy: Proxy) -> S3Vault:
    keys = proxy.access_key, proxy.secret_key
    return S3Vault(place, connect(place, *keys), connect_wire(place, *keys))


@pytest.fixture
def vault(place: Place, proxy: Proxy) -> S3Vault:
    made = opened(place, proxy)
    put(made, "records/first/x", b"x")  # it has seen what its bucket honours
    assert made.locks()
    proxy.seen.clear()
    return made


def put(vault: S3Vault, key: str, content: bytes, lock: Lock | None = None) -> Stored:
    return vault.put(key, content, sha256=hashlib.sha256(content).digest(), size=len(content), lock=lock)


def error(status: int, body: bytes) -> Answer:
    return Answer(status, {"Content-Length": str(len(body)), "Content-Type": "application/xml"}, body)


def times(count: int, fault: Answer | None, which: Callable[[Seen], bool]) -> Callable[[Seen], Answer | str | None]:
    """The fault, for the first `count` requests of that kind."""
    left = [count]

    def before(seen: Seen) -> Answer | str | None:
        if which(seen) and left[0]:
            left[0] -= 1
            return fault
        return "forward"

    return before


def lost(count: int, which: Callable[[Seen], bool]) -> Callable[[Seen, Answer], Answer | None]:
    left = [count]

    def after(seen: Seen, answer: Answer) -> Answer | None:
        if which(seen) and left[0]:
            left[0] -= 1
            return None
        return answer

    return after


def is_erase(seen: Seen) -> bool:
    return seen.method == "POST" and "delete" in seen.path


def versions(place: Place, proxy: Proxy) -> list[str]:
    client = connect(place, proxy.access_key, proxy.secret_key)
    found = client.list_object_versions(Bucket=place.bucket, Prefix=f"{place.prefix}/{KEY}").get("Versions", [])
    return [each["VersionId"] for each in found]


def test_a_put_is_two_requests(vault: S3Vault, proxy: Proxy) -> None:
    put(vault, KEY, CONTENT, Lock(LockMode.GOVERNANCE, datetime.now(UTC) + timedelta(days=7)))
    assert [seen.method for seen in proxy.seen] == ["PUT", "GET"]
    assert "versionId" in proxy.seen[1].path


@pytest.mark.parametrize("fault", [error(503, BUSY), error(500, b""), None], ids=["503", "500", "closed"])
@pytest.mark.parametrize("which", [Seen.is_put, Seen.is_read], ids=["put", "read back"])
def test_a_store_that_fails_for_a_while(
    vault: S3Vault, proxy: Proxy, place: Place, fault: Answer | None, which: Callable[[Seen], bool]
) -> None:
    proxy.before = times(3, fault, which)
    assert put(vault, KEY, CONTENT).sha256 == hashlib.sha256(CONTENT).digest()
    assert proxy.count(which) == 4
    assert len(versions(place, proxy)) == 1


def test_a_store_that_fails_for_good(vault: S3Vault, proxy: Proxy, place: Place) -> None:
    proxy.before = times(99, error(503, BUSY), Seen.is_put)
    with pytest.raises(ServiceUnavailable, match="after 4 attempts"):
        put(vault, KEY, CONTENT)
    assert proxy.count(Seen.is_put) == 4
    assert versions(place, proxy) == []
    proxy.before = lambda _: "forward"
    put(vault, KEY, CONTENT)
    assert len(versions(place, proxy)) == 1


def test_a_put_whose_answer_was_lost_is_one_object(vault: S3Vault, proxy: Proxy, place: Place) -> None:
    proxy.after = lost(1, Seen.is_put)
    stored = put(vault, KEY, CONTENT)
    assert versions(place, proxy) == [stored.version]


def test_a_put_whose_answers_are_all_lost_is_one_object_when_run_again(
    vault: S3Vault, proxy: Proxy, place: Place
) -> None:
    proxy.after = lost(99, Seen.is_put)
    with pytest.raises(ServiceUnavailable):
        put(vault, KEY, CONTENT)
    assert len(versions(place, proxy)) == 1
    proxy.after = lambda _, answer: answer
    assert put(vault, KEY, CONTENT).version == versions(place, proxy)[0]
    assert len(versions(place, proxy)) == 1


def test_a_store_that_ignores_conditions_keeps_one_object(place: Place, proxy: Proxy) -> None:
    """Two workers, and the answer of the first put lost: three PUTs are stored, the first is the object."""
    client = connect(place, proxy.access_key, proxy.secret_key)

    def forget(params: dict[str, object], **_: object) -> None:
        params.pop("IfNoneMatch", None)

    client.meta.events.register("before-parameter-build.s3.PutObject", forget)
    vault = S3Vault(place, client)
    proxy.after = lost(1, Seen.is_put)
    first = put(vault, KEY, CONTENT)
    assert versions(place, proxy) == [first.version]
    assert put(vault, KEY, CONTENT).version == first.version
    with pytest.raises(Refused, match="other bytes"):
        put(vault, KEY, b"forgery")
    assert versions(place, proxy) == [first.version]
    other = put(vault, "records/other/x", b"x")  # learns that conditions are ignored, and leaves no trace of that
    assert other.version == vault.stat("records/other/x").version
    assert vault.erase("records/other/x") == 1


def test_what_is_refused_is_not_retried(vault: S3Vault, proxy: Proxy) -> None:
    proxy.before = times(99, error(403, DENIED), Seen.is_put)
    with pytest.raises(UsageError, match="permission"):
        put(vault, KEY, CONTENT)
    assert proxy.count(Seen.is_put) == 1


def test_a_lock_that_is_refused_is_not_retried(vault: S3Vault, proxy: Proxy) -> None:
    put(vault, KEY, CONTENT)
    proxy.before = times(99, error(403, DENIED), lambda seen: seen.method == "PUT" and "retention" in seen.path)
    with pytest.raises(Refused, match="refusing to lock"):
        vault.lock(KEY, "", Lock(LockMode.GOVERNANCE, datetime.now(UTC) + timedelta(days=1)))
    assert proxy.count(lambda seen: seen.method == "PUT" and "retention" in seen.path) == 1


def test_a_lock_that_the_store_forgets_is_set_again_and_read_back(vault: S3Vault, proxy: Proxy) -> None:
    def without(seen: Seen, answer: Answer) -> Answer:
        kept = {name: value for name, value in answer.headers.items() if "object-lock" not in name.lower()}
        return replace(answer, headers=kept) if seen.is_read() else answer

    proxy.after = without
    lock = Lock(LockMode.GOVERNANCE, datetime.now(UTC).replace(microsecond=0) + timedelta(days=1))
    assert put(vault, KEY, CONTENT, lock).lock == lock
    assert [seen.method for seen in proxy.seen][:4] == ["PUT", "GET", "PUT", "HEAD"]


def test_a_head_without_lock_fields_does_not_mean_unlocked(vault: S3Vault, proxy: Proxy) -> None:
    lock = Lock(LockMode.GOVERNANCE, datetime.now(UTC).replace(microsecond=0) + timedelta(days=1))
    stored = put(vault, KEY, CONTENT, lock)
    vault.hold(KEY, stored.version, True)

    def without(seen: Seen, answer: Answer) -> Answer:
        kept = {name: value for name, value in answer.headers.items() if "object-lock" not in name.lower()}
        return replace(answer, headers=kept) if seen.method == "HEAD" else answer

    proxy.after = without
    seen = vault.stat(KEY, stored.version)
    assert (seen.lock, seen.hold) == (lock, True)
    with pytest.raises(Refused, match="refusing to erase"):
        vault.erase(KEY)
    proxy.before = times(99, error(403, DENIED), lambda seen: "retention" in seen.path)
    with pytest.raises(UsageError, match="permission"):
        vault.erase(KEY)
    assert proxy.count(is_erase) == 0


def test_bytes_that_changed_on_their_way_are_damaged_and_removed(vault: S3Vault, proxy: Proxy, place: Place) -> None:
    proxy.after = lambda seen, answer: replace(answer, body=b"X" + answer.body[1:]) if seen.is_read() else answer
    with pytest.raises(Damaged, match="removed"):
        put(vault, KEY, CONTENT)
    assert versions(place, proxy) == []


def test_a_store_that_keeps_only_half_is_damaged(vault: S3Vault, proxy: Proxy, place: Place) -> None:
    def half(seen: Seen, answer: Answer) -> Answer:
        body = answer.body[: len(answer.body) // 2]
        headers = {**answer.headers, "Content-Length": str(len(body))}
        return replace(answer, body=body, headers=headers) if seen.is_read() else answer

    proxy.after = half
    with pytest.raises(Damaged):
        put(vault, KEY, CONTENT)
    assert versions(place, proxy) == []


def test_a_body_cut_off_is_read_again_and_then_damaged(vault: S3Vault, proxy: Proxy, place: Place) -> None:
    cuts = [2]

    def cut(seen: Seen, answer: Answer) -> Answer:
        if seen.is_read() and cuts[0]:
            cuts[0] -= 1
            return replace(answer, body=answer.body[:100])
        return answer

    proxy.after = cut
    stored = put(vault, KEY, CONTENT)
    assert proxy.count(Seen.is_read) == 3
    cuts[0] = 99
    with pytest.raises((Damaged, ServiceUnavailable)):
        put(vault, KEY, CONTENT)
    with pytest.raises(MunimentError), vault.open(KEY, stored.version) as file:
        file.read()
    assert versions(place, proxy) == [stored.version]


def test_a_store_that_is_slow_is_unavailable_in_bounded_time(place: Place, proxy: Proxy) -> None:
    impatient = replace(place, read_timeout=0.2, attempts=2)
    vault = opened(impatient, proxy)
    put(vault, "records/first/x", b"x")

    def slow(seen: Seen) -> Answer | str | None:
        if seen.is_put():
            time.sleep(0.6)
        return "forward"

    proxy.before = slow
    begun = time.monotonic()
    with pytest.raises(ServiceUnavailable, match="does not answer"):
        put(vault, KEY, CONTENT)
    assert time.monotonic() - begun < 5


def test_a_store_that_is_away_is_unavailable() -> None:
    away = Place("none", endpoint="http://127.0.0.1:9", region="us-east-1", attempts=2, first_wait=0.001)
    with pytest.raises(ServiceUnavailable, match="start it"):
        S3Vault(away, connect(away, "key", "secret")).check()


def test_a_store_that_is_only_starting_is_asked_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    waited: list[float] = []

    class Store(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 10:00:00 GMT\r\nContent-Length: 0\r\n\r\n")

    with ExitStack() as started:

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 2:
                listener = started.enter_context(ThreadingHTTPServer(("127.0.0.1", port), Store))
                started.callback(listener.shutdown)
                threading.Thread(target=listener.serve_forever, daemon=True).start()

        monkeypatch.setattr(s3_requests, "time", SimpleNamespace(sleep=sleep))
        url = f"s3://ready?endpoint=http://127.0.0.1:{port}&region=us-east-1"
        vault = S3Vault(place_of(url), connect(place_of(url), server.access_key, server.secret_key))
        assert vault.time() == datetime(2026, 11, 23, 10, tzinfo=UTC)
    assert len(waited) == 2


def test_erase_reads_the_errors_of_an_answer_of_200(vault: S3Vault, proxy: Proxy, place: Place) -> None:
    put(vault, KEY, CONTENT)
    refused = b"<DeleteResult><Error><Key>k</Key><Code>%s</Code><Message>m</Message></Error></DeleteResult>"
    proxy.before = times(99, error(200, refused % b"AccessDenied"), is_erase)
    with pytest.raises(Refused, match="refusing to erase"):
        vault.erase(KEY)
    assert proxy.count(is_erase) == 1
    proxy.before = times(2, error(200, refused % b"InternalError"), is_erase)
    assert vault.erase(KEY) == 1
    assert versions(place, proxy) == []


def test_an_erase_that_says_it_worked_and_did_not_is_found_out(vault: S3Vault, proxy: Proxy, place: Place) -> None:
    put(vault, KEY, CONTENT)
    proxy.before = times(99, error(200, b"<DeleteResult></DeleteResult>"), is_erase)
    with pytest.raises(ServiceUnavailable, match="has versions again"):
        vault.erase(KEY)
    assert len(versions(place, proxy)) == 1


def test_an_erase_whose_answer_was_lost(vault: S3Vault, proxy: Proxy, place: Place) -> None:
    put(vault, KEY, CONTENT)
    proxy.after = lost(1, is_erase)
    assert vault.erase(KEY) == 1
    assert versions(place, proxy) == []


def test_erase_goes_in_batches_and_takes_markers(
    vault: S3Vault, proxy: Proxy, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert s3_versions.DELETE_BATCH <= 200
    monkeypatch.setattr(s3_versions, "DELETE_BATCH", 2)
    client = connect(place, proxy.access_key, proxy.secret_key)
    for _ in range(3):
        client.put_object(Bucket=place.bucket, Key=f"{place.prefix}/{KEY}", Body=b"x")
    client.delete_object(Bucket=place.bucket, Key=f"{place.prefix}/{KEY}")
    proxy.seen.clear()
    assert vault.stat(KEY).size == 1  # a marker hides nothing
    assert vault.erase(KEY) == 3
    assert proxy.count(is_erase) == 3
    left = client.list_object_versions(Bucket=place.bucket, Prefix=f"{place.prefix}/{KEY}")
    assert not left.get("Versions") and not left.get("DeleteMarkers")


@pytest.mark.parametrize("persisted", [False, True], ids=["not persisted", "persisted"])
@pytest.mark.parametrize("step", ["begin", "part", "complete"])
def test_each_step_of_an_upload_in_parts_may_fail(
    vault: S3Vault, proxy: Proxy, place: Place, monkeypatch: pytest.MonkeyPatch, step: str, persisted: bool
) -> None:
    monkeypatch.setattr(s3_content, "SINGLE", 6 * 1024 * 1024)
    monkeypatch.setattr(s3_content, "PART", 5 * 1024 * 1024)
    monkeypatch.setattr("retention.vault.s3.SINGLE", 6 * 1024 * 1024)
    content = bytes(11 * 1024 * 1024)

    def which(seen: Seen) -> bool:
        return {
            "begin": seen.method == "POST" and "uploads" in seen.path,
            "part": seen.method == "PUT" and "partNumber=2" in seen.path,
            "complete": seen.method == "POST" and "uploadId" in seen.path,
        }[step]

    if persisted:
        proxy.after = lost(1, which)
    else:
        proxy.before = times(1, error(503, BUSY), which)
    stored = put(vault, KEY, content)
    assert proxy.count(which) == 2
    assert versions(place, proxy) == [stored.version]
    # For good: the upload is aborted, and running it again is one object.
    other = f"{KEY}0"
    proxy.before, proxy.after = times(99, error(503, BUSY), which), lambda _, answer: answer
    with pytest.raises(ServiceUnavailable):
        put(vault, other, content)
    with pytest.raises(NotFound):
        vault.stat(other)
    proxy.before = lambda _: "forward"
    put(vault, other, content)
    # What a lost answer to "begin" left is found by the sweep.
    left = 1 if step == "begin" and persisted else 0
    assert vault.sweep(datetime.now(UTC) + timedelta(days=1)) == left


def test_a_bucket_that_is_missing_is_not_a_missing_object(proxy: Proxy) -> None:
    place = place_of(f"s3://no-such-bucket-{uuid.uuid4().hex[:8]}?endpoint={proxy.endpoint}&region=us-east-1")
    vault = S3Vault(place, connect(place, proxy.access_key, proxy.secret_key))
    for verb in (lambda: vault.stat(KEY), lambda: vault.open(KEY, "v1"), lambda: vault.erase(KEY), vault.check):
        with pytest.raises(UsageError, match="no such bucket"):
            verb()


def test_a_bucket_without_object_lock_is_not_taken_for_one_with_it(proxy: Proxy) -> None:
    url = f"s3://plain-{uuid.uuid4().hex[:8]}?endpoint={proxy.endpoint}&region=us-east-1"
    ensure_vault(url, lock=False, access_key=proxy.access_key, secret_key=proxy.secret_key)
    ensure_vault(url, lock=False, access_key=proxy.access_key, secret_key=proxy.secret_key)
    with pytest.raises(UsageError, match="without Object Lock"):
        ensure_vault(url, lock=True, access_key=proxy.access_key, secret_key=proxy.secret_key)


def test_making_a_bucket_again_changes_nothing(proxy: Proxy) -> None:
    url = f"s3://again-{uuid.uuid4().hex[:8]}?endpoint={proxy.endpoint}&region=us-east-1"
    for _ in range(2):
        ensure_vault(url, access_key=proxy.access_key, secret_key=proxy.secret_key)


# ---------------------------------------------------------------- the probe, and stores that do not keep what is locked


def probed(
    place: Place, proxy: Proxy, operation: str = "", change: Callable[[dict[str, Any]], None] | None = None
) -> set[str]:
    """What a probe finds where the store does to this operation what nobody asked for."""
    client = connect(place, proxy.access_key, proxy.secret_key)
    if change:
        client.meta.events.register(f"provide-client-params.s3.{operation}", lambda params, **_: change(params))
    return {name for name, said in S3Vault(place, client).probe().items() if said}


def forget(params: dict[str, Any]) -> None:
    for name in ("ObjectLockMode", "ObjectLockRetainUntilDate"):
        params.pop(name, None)


def bypass(params: dict[str, Any]) -> None:
    params["BypassGovernanceRetention"] = True


def is_locking(seen: Seen) -> bool:
    return seen.method == "PUT" and "?retention" in seen.path


LOCKED = {name for name, one in ATTEMPTS.items() if one.mode is not None}
DONE = Answer(200, {"Content-Length": "0"}, b"")


def test_a_probe_finds_a_store_that_locks_nothing(place: Place, proxy: Proxy) -> None:
    proxy.before = times(1000, DONE, is_locking)
    assert probed(place, proxy, "PutObject", forget) == LOCKED - {"delete-uploaded-in-parts"} | {"bypass"}


def test_a_probe_finds_a_store_that_says_it_locked_and_did_not(place: Place, proxy: Proxy) -> None:
    until = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def lies(seen: Seen, answer: Answer) -> Answer:
        if seen.method in ("GET", "HEAD") and answer.status == 200 and "/probe/" in seen.path:
            told = {name: value for name, value in answer.headers.items() if "object-lock" not in name.lower()}
            told |= {"x-amz-object-lock-mode": "COMPLIANCE", "x-amz-object-lock-retain-until-date": until}
            return replace(answer, headers=told)
        return answer

    proxy.after = lies
    found = probed(place, proxy, "PutObject", forget)
    assert {"delete", "delete-many", "delete-compliance", "bypass"} <= found and "delete-held" not in found


@pytest.mark.parametrize(
    ("operation", "found"),
    [("DeleteObject", "delete"), ("DeleteObjects", "delete-many"), ("PutObjectRetention", "shorten")],
)
def test_a_probe_finds_a_store_that_does_what_a_lock_forbids(
    place: Place, proxy: Proxy, operation: str, found: str
) -> None:
    assert found in probed(place, proxy, operation, bypass)


def test_a_probe_finds_a_hold_that_does_not_hold(place: Place, proxy: Proxy) -> None:
    def off(params: dict[str, Any]) -> None:
        params["LegalHold"] = {"Status": "OFF"}

    assert "delete-held" in probed(place, proxy, "PutObjectLegalHold", off)


# What each attempt sends; the store that does as it is told shows it in what is read afterwards.
ATTACKS: dict[str, Callable[[Seen], bool]] = {
    "delete": lambda seen: seen.method == "DELETE",
    "delete-many": lambda seen: seen.method == "POST" and seen.path.endswith("?delete"),
    "shorten": is_locking,
    "overwrite": lambda seen: seen.method == "PUT" and "?" not in seen.path,
    "overwrite-in-parts": lambda seen: seen.method == "POST" and "uploadId=" in seen.path,
    "delete-uploaded-in-parts": lambda seen: seen.method == "DELETE",
    "delete-compliance": lambda seen: seen.method == "DELETE",
    "shorten-compliance": is_locking,
    "delete-held": lambda seen: seen.method == "DELETE",
}
GONE = error(404, b"<Error><Code>NoSuchVersion</Code><Message>gone</Message></Error>")
OTHER = b"An object that came later."


@pytest.mark.parametrize("name", ATTACKS)
def test_each_weakness_is_found_under_its_name(place: Place, proxy: Proxy, name: str) -> None:
    """The store keeps every lock but one: what that attempt asks for it does."""
    asked = [2 if name == "overwrite" else 1]  # the first put is the object itself
    soon = (datetime.now(UTC) + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def weak(seen: Seen, answer: Answer) -> Answer:
        if ATTACKS[name](seen) and (f"/probe/{name}/" in seen.path or name == "delete-many"):
            asked[0] -= 1
        if asked[0] > 0 or f"/probe/{name}/" not in seen.path or seen.method not in ("GET", "HEAD"):
            return answer
        if name.startswith("shorten"):
            date = {"x-amz-object-lock-retain-until-date": soon}
            kept = {key: value for key, value in answer.headers.items() if key.lower() not in date}
            return replace(answer, headers=kept | date)
        if name.startswith("overwrite"):
            return replace(answer, body=OTHER, headers=answer.headers | {"Content-Length": str(len(OTHER))})
        return GONE

    proxy.after = weak
    assert probed(place, proxy) - {"bypass"} == {name}


def test_lock_headers_that_are_dropped_are_made_up_for(place: Place, proxy: Proxy) -> None:
    """As RGW does on uploads in parts: a put that reads no lock back sets it, and then it holds."""
    assert probed(place, proxy, "PutObject", forget) <= {"bypass"}
    assert proxy.count(is_locking) > len(ATTEMPTS)


@pytest.mark.parametrize("body", [b"", DENIED], ids=["nothing", "an error"])
def test_a_lock_that_is_answered_with_200_and_not_set_is_found(place: Place, proxy: Proxy, body: bytes) -> None:
    proxy.before = times(1000, error(200, body), is_locking)
    found = probed(place, proxy, "PutObject", forget)
    assert found >= LOCKED - {"delete-uploaded-in-parts"}


def test_an_upload_that_is_answered_with_200_and_an_error_is_found(place: Place, proxy: Proxy) -> None:
    completes = ATTACKS["overwrite-in-parts"]
    proxy.before = times(1000, error(200, DENIED), lambda seen: completes(seen) and "-uploaded-" in seen.path)
    assert probed(place, proxy) - {"bypass"} == {"delete-uploaded-in-parts"}


@pytest.mark.parametrize("what", ["other bytes", "half of them", "the connection closes"])
def test_a_probe_finds_bytes_that_are_not_those_that_were_locked(place: Place, proxy: Proxy, what: str) -> None:
    def other(seen: Seen, answer: Answer) -> Answer:
        if seen.method != "GET" or "/probe/delete/" not in seen.path or answer.status != 200 or len(answer.body) < 4:
            return answer
        if what == "other bytes":
            return replace(answer, body=bytes(reversed(answer.body)))
        half = answer.body[: len(answer.body) // 2]
        said = (
            answer.headers if what == "the connection closes" else answer.headers | {"Content-Length": str(len(half))}
        )
        return replace(answer, body=half, headers=said)

    proxy.after = other
    assert probed(place, proxy) - {"bypass"} == {"delete"}


def test_a_store_that_is_slow_is_probed_or_said_not_to_answer(place: Place, proxy: Proxy) -> None:
    def slow(seen: Seen) -> str:
        if "/probe/delete/" in seen.path:
            time.sleep(0.3)
        return "forward"

    proxy.before = slow
    assert probed(replace(place, read_timeout=2.0), proxy) <= {"bypass"}
    begun = time.monotonic()
    with pytest.raises(ServiceUnavailable, match="does not answer"):
        probed(replace(place, read_timeout=0.1, attempts=2), proxy)
    assert time.monotonic() - begun < 5


def test_a_store_that_says_yes_and_keeps_the_lock_is_whole(place: Place, proxy: Proxy) -> None:
    proxy.before = times(1000, DONE, lambda seen: seen.method == "DELETE" and "/probe/" in seen.path)
    assert "delete" not in probed(place, proxy) and "delete-compliance" not in probed(place, proxy)


def test_a_store_that_is_busy_is_probed_when_it_answers_again(place: Place, proxy: Proxy) -> None:
    calm = probed(place, proxy)
    assert calm <= {"bypass"}
    proxy.before = times(3, error(503, BUSY), lambda seen: "/probe/" in seen.path)
    assert probed(place, proxy) == calm
    proxy.before = times(1000, error(503, BUSY), lambda seen: "/probe/" in seen.path)
    with pytest.raises(ServiceUnavailable):
        probed(place, proxy)

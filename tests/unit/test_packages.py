"""Names, manifests, profile, acknowledgement, PREMIS: each finding by its code, on bags that were made wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import unicodedata
from collections.abc import Callable
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import bagit
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from retention.errors import MunimentError, NotFound, Refused, UsageError
from retention.model import AgentKind, Description
from retention.packages import finding_aid, premis
from retention.packages.acknowledgements import read_acknowledgement
from retention.packages.bags import (
    MAX_NAME,
    MAX_NAME_BYTES,
    Bag,
    decoded,
    digested,
    encoded,
    manifest_line,
    read_bag,
    safe_name,
    seal_tags,
    staged,
    tags,
)
from retention.packages.check import conforms, profile, profile_file, verify_bag
from retention.rules import Authority

ONE, TWO = UUID(int=1), UUID(int=2)
NAME = "חוזה.txt"
PATH = f"data/records/{ONE}/{NAME}"


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("given", "safe"),
    [
        ("letter.txt", "letter.txt"),
        ("חשבונית 2024.pdf", "חשבונית 2024.pdf"),
        ("", "document"),
        ("...", "document"),
        ("../../etc/passwd", "_.._.._etc_passwd"),
        ("a\\b:c", "a_b_c"),
        (".profile", "_.profile"),
        ("-rf", "_-rf"),
        ("=1+1.csv", "_=1+1.csv"),
        ("con.TXT", "_con.TXT"),
        ("COM¹.log", "_COM¹.log"),
        ("console.txt", "console.txt"),
        ("100%.txt", "100_.txt"),
        ("a\r\nb", "a__b"),
        ("\u202efdp.exe", "_fdp.exe"),
        ("trailing. . ", "trailing"),
        ("a\u00a0b", "a b"),
        ("\udce9t\udce9.txt", "_t_.txt"),
        ("e\u0301.txt", "\u00e9.txt"),
    ],
)
def test_a_name_becomes_one_that_every_system_holds(given: str, safe: str) -> None:
    assert safe_name(given) == safe


def test_a_long_name_keeps_its_extension() -> None:
    assert safe_name("x" * 500 + ".docx") == "x" * (MAX_NAME - 5) + ".docx"
    hebrew = safe_name("ש" * 300 + ".pdf")
    assert hebrew.endswith("ש.pdf") and len(hebrew.encode()) <= MAX_NAME_BYTES
    assert len(safe_name("." + "x" * 500)) <= MAX_NAME


@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_every_name_is_safe(name: str) -> None:
    safe = safe_name(name)
    assert safe_name(safe) == safe
    assert 0 < len(safe) <= MAX_NAME and len(safe.encode()) <= MAX_NAME_BYTES
    assert unicodedata.is_normalized("NFC", safe)
    assert not set(safe) & set('<>:"/\\|?*%\r\n\0')
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs"} for c in safe)
    assert safe[0] not in ".-=+@~ " and safe[-1] not in ". "
    assert encoded(safe) == safe


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_path_of_a_manifest_reads_as_it_was(path: str) -> None:
    line = encoded(path)
    assert not set(line) & set("\r\n")
    assert decoded(line) == path


# ---------------------------------------------------------------- a bag, and bags that are wrong


def make(folder: Path, files: dict[str, bytes] | None = None) -> Bag:
    """A bag of our profile around `files`, without an archive."""
    files = files or {PATH: b"words"}
    with staged(folder) as at:
        (at / "metadata").mkdir()
        for path, content in files.items():
            (at / path).parent.mkdir(parents=True, exist_ok=True)
            (at / path).write_bytes(content)
        made = [digested(at, path) for path in sorted(files)]
        for algorithm in ("sha256", "sha512"):
            (at / f"manifest-{algorithm}.txt").write_text("".join(manifest_line(algorithm, f) for f in made), "utf-8")
        with (at / "metadata/premis.xml").open("wb") as file, premis.document(file) as xml:
            for one in made:
                fixity = {"SHA-256": one.sha256, "SHA-512": one.sha512}
                xml.write(
                    premis.file_object(premis.FileObject(premis.Identifier("UUID", "x"), fixity, one.size, one.path))
                )
        with (at / "metadata/nara.psv").open("w", encoding="utf-8", newline="") as listing:
            rows = [{"File Path": one.path} for one in made]
            writer = csv.DictWriter(listing, finding_aid.COLUMNS, delimiter="|")
            writer.writeheader()
            writer.writerows(rows)
        (at / "metadata/audit-trail.jsonl").touch()
        (at / "metadata/bagit-profile.json").write_bytes(profile_file())
        octets = f"{sum(f.size for f in made)}.{len(made)}"
        info = [
            ("BagIt-Profile-Identifier", profile()["BagIt-Profile-Info"]["BagIt-Profile-Identifier"]),
            *(("Source-Organization", "Clinic\r\nInjected: x"), ("Bagging-Date", "2026-11-22")),
            *(("Bag-Software-Agent", "muniment"), ("External-Identifier", "plan-1"), ("Payload-Oxum", octets)),
            *(("Package-Purpose", "transfer"), ("Records", "1"), ("Records-Not-Included", "0")),
            *(("Ledger-Size", "1"), ("Ledger-Root", "00")),
        ]
        seal_tags(at, info)
    return read_bag(folder)


def reseal(bag: Path) -> None:
    """Make the tag manifests fit again, so that one fault is seen alone."""
    for path in bag.glob("tagmanifest-*"):
        path.unlink()
    info = tags((bag / "bag-info.txt").read_text("utf-8"))
    seal_tags(bag, [(label, value) for label, values in info.items() for value in values])


def edit(bag: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    (bag / name).write_bytes(change((bag / name).read_bytes()))


def test_a_bag_of_ours_is_one_for_the_library_of_congress(tmp_path: Path) -> None:
    bag = make(tmp_path / "bag")
    assert verify_bag(bag.path) == ()
    other = bagit.Bag(str(bag.path))
    other.validate()
    assert (other.version_info, other.info["Source-Organization"]) == ((1, 0), "Clinic Injected: x")
    assert "Injected" not in other.info
    assert bag.digest == sha256((bag.path / "tagmanifest-sha256.txt").read_bytes()).digest()
    assert (bag.records, bag.files, bag.bytes) == ((ONE,), 1, 5)
    assert bag.path.stat().st_mode & 0o077 == 0


WRONG: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a byte of the payload": ("BAG-DAMAGED", lambda b: (b / PATH).write_bytes(b"wordz")),
    "a byte of a tag file": ("BAG-DAMAGED", lambda b: edit(b, "metadata/audit-trail.jsonl", lambda _: b"{}\n")),
    "a byte of a manifest": ("BAG-DAMAGED", lambda b: edit(b, "manifest-sha512.txt", lambda c: c.replace(b"  ", b" "))),
    "a file less": ("BAG-MISSING", lambda b: (b / PATH).unlink()),
    "a file more": ("BAG-UNLISTED", lambda b: (b / "data/more.txt").write_bytes(b"")),
    "a tag file more": ("BAG-UNLISTED", lambda b: (b / "metadata/more.txt").write_bytes(b"")),
    "no declaration": ("BAG-DECLARATION", lambda b: (b / "bagit.txt").unlink()),
    "an older version": ("BAG-DECLARATION", lambda b: edit(b, "bagit.txt", lambda c: c.replace(b"1.0", b"0.97"))),
    "no manifest": ("BAG-MANIFEST", lambda b: (b / "manifest-sha256.txt").unlink()),
    "a line that is none": ("BAG-MANIFEST", lambda b: edit(b, "manifest-sha256.txt", lambda c: c + b"deadbeef x\n")),
    "a path twice": ("BAG-MANIFEST", lambda b: edit(b, "manifest-sha256.txt", lambda c: c + c)),
    "not UTF-8": ("BAG-MANIFEST", lambda b: edit(b, "manifest-sha256.txt", lambda c: c + b"\xff\n")),
    "a way out": ("BAG-PATH", lambda b: edit(b, "manifest-sha256.txt", lambda c: c + b"0" * 64 + b"  data/../../x\n")),
    "an absolute path": (
        "BAG-PATH",
        lambda b: edit(b, "manifest-sha256.txt", lambda c: c + b"0" * 64 + b"  /etc/passwd\n"),
    ),
    "a link": ("BAG-PATH", lambda b: (b / "data/link").symlink_to("/etc/passwd")),
    "a link to a folder": ("BAG-PATH", lambda b: (b / "data/link").symlink_to("/etc")),
    "a named pipe": ("BAG-PATH", lambda b: os.mkfifo(b / "data/pipe")),
    "one name for other systems": ("BAG-PATH", lambda b: (b / "bagIT.txt").write_bytes(b"")),
    "a wrong total": ("BAG-OXUM", lambda b: edit(b, "bag-info.txt", lambda c: c.replace(b"Oxum: 5.1", b"Oxum: 5.2"))),
    "no label": ("BAG-INFO", lambda b: edit(b, "bag-info.txt", lambda c: c + b"what\n")),
    "another profile": (
        "BAG-PROFILE",
        lambda b: edit(b, "bag-info.txt", lambda c: c.replace(b"urn:uuid:6", b"urn:uuid:7")),
    ),
    "a label less": ("BAG-PROFILE", lambda b: edit(b, "bag-info.txt", lambda c: c.replace(b"External-I", b"I"))),
    "a label twice": ("BAG-PROFILE", lambda b: edit(b, "bag-info.txt", lambda c: c + b"Records: 2\n")),
    "files to fetch": ("BAG-PROFILE", lambda b: (b / "fetch.txt").write_bytes(b"http://x 1 data/x\n")),
    "a manifest more": ("BAG-PROFILE", lambda b: (b / "manifest-md5.txt").write_bytes(b"")),
    "no PREMIS": ("BAG-PROFILE", lambda b: (b / "metadata/premis.xml").unlink()),
    "other XML": (
        "BAG-PREMIS",
        lambda b: edit(b, "metadata/premis.xml", lambda c: c.replace(b"compositionLevel", b"level")),
    ),
    "no XML": ("BAG-PREMIS", lambda b: (b / "metadata/premis.xml").write_bytes(b"<premis")),
    "a file not in the list": ("BAG-LIST", lambda b: edit(b, "metadata/nara.psv", lambda c: c.split(b"\n")[0] + b"\n")),
    "a file twice in it": ("BAG-LIST", lambda b: edit(b, "metadata/nara.psv", lambda c: c + c.split(b"\n", 1)[1])),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_a_bag_is_named(tmp_path: Path, what: str) -> None:
    code, change = WRONG[what]
    bag = make(tmp_path / "bag")
    change(bag.path)
    assert code in {finding.code for finding in verify_bag(bag.path)}


@pytest.mark.parametrize("what", ["a wrong total", "no PREMIS", "a file not in the list", "other XML", "a label less"])
def test_what_the_manifests_do_not_see_is_found_alone(tmp_path: Path, what: str) -> None:
    code, change = WRONG[what]
    bag = make(tmp_path / "bag")
    change(bag.path)
    reseal(bag.path)
    assert {finding.code for finding in verify_bag(bag.path)} == {code}


def test_a_bag_with_encoded_names_is_understood(tmp_path: Path) -> None:
    bag = make(tmp_path / "bag", {"data/100%25.txt": b"1", "data/a\nb.txt": b"2", "data/%0a": b"3"})
    assert b"data/100%2525.txt" in (bag.path / "manifest-sha256.txt").read_bytes()
    assert [f for f in verify_bag(bag.path) if f.code != "BAG-LIST"] == []


def test_no_bag_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="Expected a bag"):
        verify_bag(tmp_path / "none")
    with pytest.raises(NotFound, match="no bag is there"):
        read_bag(tmp_path)


def test_the_profile_is_one(tmp_path: Path) -> None:
    """BagIt Profiles 1.3: the fields that a profile must have, and lists that do not contradict each other."""
    ours: dict[str, Any] = json.loads(profile_file())
    about = ours["BagIt-Profile-Info"]
    assert {"BagIt-Profile-Identifier", "Source-Organization", "External-Description", "Version"} <= about.keys()
    assert ours["Bag-Info"]["BagIt-Profile-Identifier"]["values"] == [about["BagIt-Profile-Identifier"]]
    for kind in ("Manifests", "Tag-Manifests"):
        assert set(ours[f"{kind}-Required"]) <= set(ours[f"{kind}-Allowed"])
    assert ours["Accept-BagIt-Version"] == ["1.0"]
    assert ours["Serialization"] in {"forbidden", "required", "optional"} and ours["Accept-Serialization"]
    assert isinstance(ours["Allow-Fetch.txt"], bool)
    assert all(isinstance(rule["required"], bool) for rule in ours["Bag-Info"].values())
    bag = make(tmp_path / "bag")
    info = tags((bag.path / "bag-info.txt").read_text("utf-8"))
    files = [p.relative_to(bag.path).as_posix() for p in bag.path.rglob("*") if p.is_file()]
    assert list(conforms(info, files, ours)) == []


def test_a_block_that_raises_leaves_what_was(tmp_path: Path) -> None:
    bag = make(tmp_path / "bag")
    with pytest.raises(ZeroDivisionError), staged(tmp_path / "bag") as folder:
        (folder / "data").mkdir()
        _ = 1 / 0
    assert [p.name for p in tmp_path.iterdir()] == ["bag"]
    assert read_bag(tmp_path / "bag") == bag


@pytest.mark.parametrize("at", ["in the block", "between the renames"])
def test_a_writer_that_is_killed_leaves_no_half_bag(tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "bag")
    child = os.fork()
    if child == 0:
        try:  # whatever happens, the child does not go on as a second pytest
            monkeypatch.setattr(Path, "rename", _dies_at_the_second(Path.rename))
            with staged(tmp_path / "bag") as folder:
                (folder / "half").touch()
                if at == "in the block":
                    os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not (tmp_path / "bag" / "half").exists()
    assert make(tmp_path / "bag").path.is_dir()
    assert verify_bag(tmp_path / "bag") == ()
    assert [p.name for p in tmp_path.iterdir()] == ["bag"]


def _dies_at_the_second(rename: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
    done: list[Path] = []

    def once(path: Path, target: Path) -> Path:
        if done:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(path)
        return rename(path, target)

    return once


# ---------------------------------------------------------------- the receiver's answer


def receipt(bag: Bag, other: dict[str, Any]) -> dict[str, Any]:
    given = {
        "bag": bag.identifier,
        "digest": bag.digest.hex(),
        "received_at": "2026-12-01T09:00:00+02:00",
        "receiver": "State Archives",
        "accepted": [str(ONE)],
    }
    return given | other


@pytest.mark.parametrize(
    ("other", "error", "words"),
    [
        ({"digest": "0" * 64}, Refused, "digest of tagmanifest-sha256.txt is expected to be {digest}, found 0000"),
        ({"bag": "plan-2"}, Refused, "the bag is expected to be plan-1, found plan-2"),
        ({"accepted": [str(TWO)]}, Refused, f"1 that are not in the bag, such as {TWO}"),
        ({"accepted": [str(ONE), str(ONE)]}, Refused, "1 that are named more than once"),
        ({"rejected": [{"id": str(ONE), "reason": "x"}]}, Refused, "1 that are named more than once"),
        ({"received_at": "2026-12-01T09:00:00"}, UsageError, "received_at: .*timezone"),
        ({"receiver": " "}, UsageError, "receiver: "),
        ({"digest": "no"}, UsageError, "digest: "),
        ({"accepted": ["Dana"]}, UsageError, "accepted.0: "),
        ({"rejected": [{"id": str(ONE)}]}, UsageError, "rejected.0.reason: "),
        ({"acepted": []}, UsageError, "acepted: "),
    ],
)
def test_an_answer_that_does_not_count(
    tmp_path: Path, other: dict[str, Any], error: type[MunimentError], words: str
) -> None:
    bag = make(tmp_path / "bag")
    answer = tmp_path / "answer.json"
    answer.write_text(json.dumps(receipt(bag, other)))
    with pytest.raises(error, match=words.format(digest=bag.digest.hex())) as told:
        read_acknowledgement(answer, bag)
    assert "Dana" not in str(told.value)


def test_an_answer_is_a_file_of_json(tmp_path: Path) -> None:
    bag = make(tmp_path / "bag")
    with pytest.raises(NotFound, match="no acknowledgement is there"):
        read_acknowledgement(tmp_path / "none.json", bag)
    (tmp_path / "answer.json").write_text("thanks!")
    with pytest.raises(UsageError, match="no acknowledgement: the file: Invalid JSON"):
        read_acknowledgement(tmp_path / "answer.json", bag)
    (tmp_path / "answer.json").write_text(json.dumps(receipt(bag, {})))
    assert read_acknowledgement(tmp_path / "answer.json", bag).accepted == (ONE,)


# ---------------------------------------------------------------- PREMIS and the list


def written(*elements: etree._Element) -> bytes:
    file = io.BytesIO()
    with premis.document(file) as xml:
        for element in elements:
            xml.write(element)
    return file.getvalue()


def test_everything_at_once_is_valid(tmp_path: Path) -> None:
    named = premis.Identifier("UUID", str(ONE))
    entry = {
        "type": "ing",
        "time": "2026-11-22T12:00:00.000000Z",
        "outcome": "success",
        "agent": {"id": "a", "for": "b"},
    }
    kinds = {"a": AgentKind.SOFTWARE, "b": AgentKind.PERSON}
    law = Authority("§25(c)", "IL", "https://example.org/law", date(2026, 1, 1), "Dana")
    content = written(
        premis.file_object(
            premis.FileObject(
                *(named, {"SHA-256": b"1", "SHA-512": b"2"}, 3, PATH, "text/plain", "x-fmt/111", "a\0b\udcff"),
                relationships=[premis.Relationship("structural", "is part of", premis.Identifier("UUID", "whole"))],
                rights=["rule"],
            )
        ),
        premis.file_object(premis.FileObject(named, {}, 0, "no format known")),
        premis.intellectual_entity(premis.Identifier("UUID", "whole")),
        premis.event(7, entry, '{"class":"X"}', kinds, [str(ONE)]),
        premis.event(8, entry | {"type": "xyz"}, "{}", {}, []),
        premis.agent("a", AgentKind.SOFTWARE, "muniment", "0.1.0"),
        premis.agent("b", None, None, None),
        premis.rights(premis.Rights("rule", law, "P7Y")),
        premis.rights(premis.Rights("house", Authority("House policy", "any", "https://example.org"), "P3Y")),
    )
    (tmp_path / "premis.xml").write_bytes(content)
    assert list(premis.problems(tmp_path / "premis.xml")) == []
    assert b"a\\u0000b\\udcff" in content
    roles = [e.text for e in etree.fromstring(content).iter(f"{{{premis.NAMESPACE}}}linkingAgentRole")]
    assert roles[:2] == ["executing program", "implementer"]


def test_the_schema_is_the_librarys_own() -> None:
    """As published; whoever edits it must say so here."""
    shipped = Path(premis.__file__).parent / "premis-v3-0.xsd"
    assert (
        sha256(shipped.read_bytes()).hexdigest() == "03b8a77a20b32b882ad799e12262671d07ad18210c60233f4e613a1289491cba"
    )


def test_no_entity_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    path = tmp_path / "premis.xml"
    dtd = f'<!DOCTYPE premis [<!ENTITY x SYSTEM "{secret.as_uri()}">]>'
    body = written(premis.intellectual_entity(premis.Identifier("UUID", "VALUE"))).decode()
    declaration, _, rest = body.partition("?>")
    path.write_text(f"{declaration}?>{dtd}{rest.replace('VALUE', '&x;')}")
    told = " ".join(premis.problems(path))
    assert "the secret" not in told
    lol = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "ha"}">' for i in range(12))
    path.write_text(f"{declaration}?><!DOCTYPE premis [{lol}]>{rest.replace('VALUE', '&l11;')}")
    assert len(list(premis.problems(path))) <= 20


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\r\nlines\u2028and more\x85", "two lines and more"),
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("\n=1", "'=1"),
        ("a|b", "a|b"),
        ("nul\0", "nul"),
        ("\udcff", "\\xff"),
    ],
)
def test_a_cell_is_one_line_and_harmless(text: str, shown: str) -> None:
    assert finding_aid.cell(text) == shown


def test_what_is_not_known_is_left_out() -> None:
    assert finding_aid.descriptive(Description("a.txt", "s", "in/a.txt")) == {
        "Title": "a.txt",
        "Original Name": "a.txt",
        "Original Path": "in/a.txt",
    }

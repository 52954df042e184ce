"""ZIP and OLE containers: what they hold, and that their claims cost nothing."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import olefile
import pytest

from ingest.extraction import Document, Seen, containers
from ingest.extraction.compound import Tree, compound_file
from ingest.model import Limits
from tests.unit.office_files import DOCX, ODT, docx, odf, ooxml, zipped


def document(tmp_path: Path, data: bytes, limits: Limits | None = None) -> Document:
    path = tmp_path / "file"
    path.write_bytes(data)
    (tmp_path / "scratch").mkdir(exist_ok=True)
    return Document(path, "file", "application/zip", limits or Limits(), tmp_path / "scratch")


def lying_zip() -> bytes:
    """A member of no bytes that declares 2**64 - 1 of them, in ZIP64."""
    size = struct.pack("<HHQQ", 1, 16, 2**64 - 1, 2**64 - 1)
    local = struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 45, 0, 0, 0, 0, 0, 2**32 - 1, 2**32 - 1, 1, len(size))
    local += b"a" + size
    central = struct.pack(
        "<4sHHHHHHIIIHHHHHII",
        *(b"PK\x01\x02", 45, 45, 0, 0, 0, 0, 0, 2**32 - 1, 2**32 - 1, 1, len(size), 0, 0, 0, 0, 0),
    )
    central += b"a" + size
    return local + central + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(local), 0)


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (docx(), DOCX),
        (
            ooxml("word/document.xml", "application/vnd.ms-word.document.macroEnabled", {"word/document.xml": "<a/>"}),
            "application/vnd.ms-word.document.macroenabled.12",
        ),
        (ooxml("word/document.xml", DOCX[:-8] + "template", {}), DOCX[:-8] + "template"),
        (zipped({"word/document.xml": "<a/>"}), DOCX),
        (odf(ODT, ""), ODT),
        (
            zipped({"META-INF/manifest.xml": f'<m:file-entry m:full-path="/" media-type="{ODT}"/>'}),
            ODT,
        ),
        (zipped({"mimetype": "application/epub+zip"}), "application/epub+zip"),
        (zipped({"mimetype": "text/html", "a": "b"}), "application/zip"),
        (zipped({}), "application/zip"),
        (docx()[:-40], None),
        (b"PK\x03\x04", None),
        (b"", None),
    ],
)
def test_what_a_zip_holds(tmp_path: Path, data: bytes, mime: str | None) -> None:
    (tmp_path / "file").write_bytes(data)
    assert containers.zip_mime(tmp_path / "file") == mime


@pytest.mark.parametrize(
    ("tree", "mime"),
    [
        ({"WordDocument": b"x"}, "application/msword"),
        ({"Workbook": b"x"}, "application/vnd.ms-excel"),
        ({"Book": b"x"}, "application/vnd.ms-excel"),
        ({"PowerPoint Document": b"x"}, "application/vnd.ms-powerpoint"),
        ({"__properties_version1.0": b"x"}, "application/vnd.ms-outlook"),
        ({"__substg1.0_0037001F": b"x"}, "application/vnd.ms-outlook"),
        ({"EncryptedPackage": b"x", "EncryptionInfo": b"x"}, "application/x-ole-storage"),
        ({"Something": b"x"}, "application/x-ole-storage"),
    ],
)
def test_what_a_compound_file_holds(tmp_path: Path, tree: Tree, mime: str) -> None:
    (tmp_path / "file").write_bytes(compound_file(tree))
    assert containers.ole_mime(tmp_path / "file") == mime
    (tmp_path / "file").write_bytes(compound_file(tree)[:700])
    assert containers.ole_mime(tmp_path / "file") in {None, "application/x-ole-storage", mime}


def test_a_zip_that_declares_all_the_bytes_there_are(tmp_path: Path) -> None:
    seen = Seen()
    parts = containers.open_zip(document(tmp_path, lying_zip()), seen)
    assert parts is not None
    with parts, pytest.raises(containers.ExpansionError):
        parts.read("a")
    assert containers.zip_mime(tmp_path / "file") == "application/zip"


def test_a_directory_larger_than_its_file_is_not_loaded(tmp_path: Path) -> None:
    data = bytearray(zipped({"a": "b"}))
    at = data.rfind(b"PK\x05\x06")
    struct.pack_into("<I", data, at + 12, 0x7FFFFFFF)
    seen = Seen()
    assert containers.open_zip(document(tmp_path, bytes(data)), seen) is None
    assert [found.code for found in seen.findings] == ["DAMAGED"]


def test_limits_of_directory_members_and_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a", b"\x00" * 30_000_000)
    parts = containers.open_zip(document(tmp_path, buffer.getvalue()), Seen())
    assert parts is not None
    with parts, pytest.raises(containers.ExpansionError):
        parts.read("a")
    for name, value in (("MAX_DIRECTORY", 20), ("MAX_MEMBERS", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(containers, name, value)
            seen = Seen()
            assert containers.open_zip(document(tmp_path, zipped({"a": "", "b": ""})), seen) is None
            assert [found.code for found in seen.findings] == ["EXPANSION-LIMIT"]


def test_a_member_without_a_name_is_a_member(tmp_path: Path) -> None:
    data = zipped({"Q": "x", "folder/": "", "a": "b"}).replace(b"Q", b"\x00")  # a name ends at its first NUL
    parts = containers.open_zip(document(tmp_path, data), Seen())
    assert parts is not None
    with parts:
        assert sorted(parts.members) == ["", "a"]
        assert parts.names(".*") == ["", "a"]


def test_what_really_comes_out_is_counted(tmp_path: Path) -> None:
    data = bytearray(zipped({"a": b"\x00" * 3_000_000}))
    for at in (22, data.rfind(b"PK\x01\x02") + 24):  # both headers claim ten bytes
        struct.pack_into("<I", data, at, 10)
    parts = containers.open_zip(document(tmp_path, bytes(data), Limits(expanded_bytes=1000)), Seen())
    assert parts is not None
    with parts:
        assert (parts.read("a") or b"") <= b"\x00" * 10
    parts = containers.open_zip(
        document(tmp_path, zipped({"a": "x" * 900, "b": "x" * 900}), Limits(expanded_bytes=1000)), Seen()
    )
    assert parts is not None
    with parts:
        assert parts.read("a")
        with pytest.raises(containers.ExpansionError):
            parts.read("b")


def test_truncated_and_encrypted_zips_are_findings(tmp_path: Path) -> None:
    seen = Seen()
    assert containers.open_zip(document(tmp_path, docx()[:300]), seen) is None
    assert [found.code for found in seen.findings] == ["TRUNCATED"]
    data = bytearray(zipped({"a": "secret"}))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.find(mark) + offset] |= 1
    seen = Seen()
    parts = containers.open_zip(document(tmp_path, bytes(data)), seen)
    assert parts is not None
    with parts:
        assert parts.read("a") is None
    assert [found.code for found in seen.findings] == ["ENCRYPTED"]
    assert seen.metadata["password_needed"] is True


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\x\\letter.doc", "letter.doc"),
        ("a\x00b\nc.txt", "abc.txt"),
        ("\u202egpj.exe", "gpj.exe"),
        ("..", "fallback"),
        ("", "fallback"),
        ("x" * 400 + ".pdf", "x" * 196 + ".pdf"),
        ("מכתב.pdf", "מכתב.pdf"),
    ],
)
def test_names_of_strangers_are_cleaned(name: str, clean: str) -> None:
    assert containers.clean_name(name, "fallback") == clean


def test_children_keep_within_the_limits(tmp_path: Path) -> None:
    seen = Seen()
    children = containers.Children(document(tmp_path, b"", Limits(children=2)), seen, containers.Budget(10))
    assert children.add("a", b"12345")
    assert not children.add("b", b"123456")
    assert children.add("../c", b"1")
    assert not children.add("d", b"1")
    assert not children.add("e", b"1")
    assert [child.name for child in seen.children] == ["a", "c"]
    assert [found.code for found in seen.findings] == ["EXPANSION-LIMIT", "CHILD-LIMIT"]


def test_documents_wrapped_in_ole_objects() -> None:
    native = b"\x00" * 6 + b"letter.pdf\x00C:\\letter.pdf\x00" + struct.pack("<II", 3, 2) + b"x\x00"
    native += struct.pack("<I", 9) + b"%PDF-1.4\n" + b"trailing"
    wrapped = compound_file({"\x01Ole10Native": native})
    assert containers.embedded_in_ole(wrapped, "oleObject1.bin") == ("letter.pdf", b"%PDF-1.4\n")
    assert containers.embedded_in_ole(compound_file({"Package": b"PK\x03\x04"}), "o")[1] == b"PK\x03\x04"
    assert containers.embedded_in_ole(compound_file({"Equation Native": b"x"}), "o")[1] == b""
    assert containers.embedded_in_ole(b"\xd0\xcf\x11\xe0", "o")[1] == b""


def test_compound_files_are_what_olefile_reads() -> None:
    tree: Tree = {
        "empty": b"",
        "small": b"s" * 4095,
        "large": bytes(range(256)) * 40_000,  # more than 109 sectors of FAT hold
        "storage": {f"{number:02d}": bytes([number]) * number for number in range(1, 60)},
    }
    with olefile.OleFileIO(io.BytesIO(compound_file(tree)), raise_defects=olefile.DEFECT_POTENTIAL) as ole:
        assert not ole.parsing_issues
        assert ole.openstream("large").read() == tree["large"]
        assert ole.openstream("small").read() == tree["small"]
        assert ole.openstream("storage/59").read() == bytes([59]) * 59
        assert len(ole.listdir()) == 62
    with pytest.raises(ValueError, match="31 characters"):
        compound_file({"x" * 32: b""})


def test_zipfile_still_reads_what_is_tested_here() -> None:
    with zipfile.ZipFile(io.BytesIO(lying_zip())) as archive:
        assert archive.infolist()[0].file_size == 2**64 - 1

"""PDF: what is read of structure, text and attachments. Faults are in tests/bad_files/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ingest.extraction import Document, Seen
from ingest.extraction.pdf import read
from ingest.extraction.pdf_structure import pdf_date
from ingest.model import METADATA_KEYS, Limits
from tests.bad_files.pdf_and_image_files import encrypted_pdf, pdf, pdf_with_attachments

XMP = """<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
  xmlns:pdfaid="http://www.aiim.org/pdfa/ns/id/" xmlns:pdfuaid="http://www.aiim.org/pdfua/ns/id/"
  xmp:CreateDate="2024-03-01T10:00:00+02:00" pdfaid:part="3">
 <dc:title><rdf:Alt><rdf:li xml:lang="x-default">חוזה שכירות</rdf:li></rdf:Alt></dc:title>
 <dc:creator><rdf:Seq><rdf:li>Dana</rdf:li><rdf:li>Avi</rdf:li></rdf:Seq></dc:creator>
 <pdfaid:conformance>b</pdfaid:conformance><pdfuaid:part>1</pdfuaid:part>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end='w'?>""".encode()


def seen(content: bytes, folder: Path, limits: Limits | None = None) -> Seen:
    path = folder / "a.pdf"
    path.write_bytes(content)
    (folder / "scratch").mkdir(exist_ok=True)
    return read(Document(path, "a.pdf", "application/pdf", limits or Limits(), folder / "scratch"))


def test_a_sound_file_has_pages_text_and_no_finding(tmp_path: Path) -> None:
    result = seen(pdf(["First page\nsecond line", "", "Third"]), tmp_path)
    assert result.findings == []
    assert result.text == "First page\nsecond line\f\fThird"
    assert result.metadata == {
        "encrypted": False,
        "pdf_version": "1.7",
        "pages": 3,
        "images": 0,
        "forms": 0,
        "signatures": 0,
    }


def test_info_and_xmp(tmp_path: Path) -> None:
    info = (
        b"/Title (Lease) /Author <FEFF05D305E005D4> /Producer (Muniment tests) /Keywords (lease; flat, 2024) "
        b"/CreationDate (D:20240102030405+02'00') /ModDate (no date)"
    )
    metadata = seen(pdf(info=info, xmp=XMP, catalog=b"/Lang (he-IL) /Version /2.0"), tmp_path).metadata
    assert metadata["title"] == "Lease"  # Info before XMP
    assert metadata["author"] == "דנה"
    assert metadata["producer"] == "Muniment tests"
    assert metadata["keywords"] == ["lease", "flat", "2024"]
    assert metadata["created"] == "2024-01-02T03:04:05+02:00"
    assert "modified" not in metadata
    assert metadata["language"] == "he"
    assert metadata["pdf_version"] == "2.0"
    assert metadata["pdfa"] == "3B"
    assert metadata["pdfua"] == "1"


def test_xmp_alone(tmp_path: Path) -> None:
    metadata = seen(pdf(xmp=XMP), tmp_path).metadata
    assert metadata["title"] == "חוזה שכירות"
    assert metadata["author"] == "Dana; Avi"
    assert metadata["created"] == "2024-03-01T10:00:00+02:00"


def test_xmp_reads_no_file_and_expands_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("THE SECRET")
    evil = (
        f'<!DOCTYPE x [<!ENTITY a SYSTEM "{(tmp_path / "secret").as_uri()}"><!ENTITY b "bbbbbbbbbb">'
        '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>&a;&c;x</dc:title>'
        "</rdf:Description></rdf:RDF>"
    )
    result = seen(pdf(xmp=evil.encode()), tmp_path)
    assert "SECRET" not in str(result.metadata) and "bbbb" not in str(result.metadata)
    assert result.text == "Hello world"


@pytest.mark.parametrize(
    ("stated", "meant"),
    [
        ("D:20240102030405+02'00'", "2024-01-02T03:04:05+02:00"),
        ("D:20240102030405-05'30", "2024-01-02T03:04:05-05:30"),
        ("D:20240102030405Z00'00'", "2024-01-02T03:04:05+00:00"),
        ("20240102030405", "2024-01-02T03:04:05"),
        ("D:202401", "2024-01-01T00:00:00"),
        ("D:2024", "2024-01-01T00:00:00"),
        ("D:20241399", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_dates_are_as_stated(stated: str, meant: str | None) -> None:
    assert pdf_date(stated) == meant


def test_form_fields_and_signatures_are_counted_without_their_widgets(tmp_path: Path) -> None:
    fields = (
        b"/AcroForm << /Fields [<< /T (a) /FT /Tx >> << /T (group) /Kids [<< /T (b) /FT /Tx >> << /T (c) /FT /Btn "
        b"/Kids [<< /Subtype /Widget >> << /Subtype /Widget >>] >>] >> "
        b"<< /T (s) /FT /Sig /V << /Type /Sig >> >> << /T (unsigned) /FT /Sig >>] >>"
    )
    metadata = seen(pdf(catalog=fields), tmp_path).metadata
    assert (metadata["forms"], metadata["signatures"]) == (5, 1)


def test_attachments_become_children_under_names_of_our_own(tmp_path: Path) -> None:
    result = seen(pdf_with_attachments({"../../etc/invoice.xml": b"<Invoice/>", "note.txt": b"hello"}), tmp_path)
    assert result.metadata["attachments"] == ["../../etc/invoice.xml", "note.txt"]
    assert [child.path.read_bytes() for child in result.children] == [b"<Invoice/>", b"hello"]
    assert {child.path.parent for child in result.children} == {tmp_path / "scratch"}
    assert result.findings == []


def test_the_first_attachments_within_the_limit(tmp_path: Path) -> None:
    content = pdf_with_attachments({f"{number}.txt": b"x" * 1000 for number in range(5)})
    few = seen(content, tmp_path, Limits(children=3))
    assert [finding.code for finding in few.findings] == ["CHILD-LIMIT"]
    assert len(few.children) == 3
    small = seen(content, tmp_path, Limits(expanded_bytes=2500))
    assert [finding.code for finding in small.findings] == ["EXPANSION-LIMIT"]
    assert len(small.children) == 2


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-128", "AES-256"])
def test_an_owner_password_alone_hides_nothing(algorithm: str, tmp_path: Path) -> None:
    result = seen(encrypted_pdf("", "owner", algorithm), tmp_path)
    assert [finding.code for finding in result.findings] == ["OWNER-PASSWORD"]
    assert result.text == "secret words"
    assert (result.metadata["encrypted"], result.metadata["password_needed"]) == (True, False)


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-128", "AES-256"])
def test_a_user_password_is_needed(algorithm: str, tmp_path: Path) -> None:
    result = seen(encrypted_pdf("user", "owner", algorithm), tmp_path)
    assert [finding.code for finding in result.findings] == ["PDF-ENCRYPTED"]
    assert result.text == ""
    assert (result.metadata["encrypted"], result.metadata["password_needed"]) == (True, True)


def test_images_and_text_on_one_page_are_no_scan(tmp_path: Path) -> None:
    result = seen(pdf(["words"], image=True), tmp_path)
    assert result.findings == []
    assert result.metadata["images"] == 1


def drawn(line: str) -> str:
    """As a program draws Hebrew: glyphs from left to right, numbers as they are read."""
    return " ".join(word if word.isdigit() else word[::-1] for word in reversed(line.split(" ")))


def test_hebrew_comes_out_in_logical_order_however_it_was_drawn(tmp_path: Path) -> None:
    lines = ["שלום עולם", "אין לחם בארץ 2024"]
    by_screen = seen(pdf(["\n".join(map(drawn, lines))]), tmp_path)
    assert by_screen.text == "\n".join(lines)
    assert "visual_order_mended" not in by_screen.metadata  # PDFium itself puts drawn Hebrew in order
    by_meaning = seen(pdf(["\n".join(lines)]), tmp_path)
    assert by_meaning.text == "\n".join(lines)
    assert [finding.code for finding in by_meaning.findings] == ["VISUAL-ORDER"]
    assert by_meaning.metadata["visual_order_mended"] is True


def test_metadata_uses_only_names_of_the_dictionary(tmp_path: Path) -> None:
    everything = seen(pdf(info=b"/Title (x)", xmp=XMP, image=True), tmp_path)
    assert everything.metadata.keys() <= METADATA_KEYS.keys()


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    odd = tmp_path / "odd-\udcff\udcfe.pdf"
    odd.write_bytes(pdf(["found"]))
    assert read(Document(odd, odd.name, "application/pdf", Limits(), tmp_path)).text == "found"


def test_pypdf_says_nothing_on_stderr(tmp_path: Path) -> None:
    """Its warnings quote the document, and a log must not."""
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf(info=b"/Title (secret)").replace(b"startxref\n", b"startxref\n9"))
    script = (
        "import sys\nfrom pathlib import Path\nfrom ingest.extraction import Document\n"
        "from ingest.extraction.pdf import read\nfrom ingest.model import Limits\n"
        "seen = read(Document(Path(sys.argv[1]), 'a', 'application/pdf', Limits(), Path(sys.argv[1]).parent))\n"
        "print([finding.code for finding in seen.findings])\n"
    )
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=root, capture_output=True, text=True, check=True
    )
    assert ran.stderr == ""
    assert "TRUNCATED" in ran.stdout

"""PDF and image files for tests, healthy and hostile, made by a few lines each.

Nothing here is a real document. Broken files are made from a healthy one by one change, so that a test says
exactly what its finding is about.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

from PIL import Image
from pypdf import PdfReader, PdfWriter


class PdfBytes:
    """Writes a PDF object by object, with a right cross-reference table."""

    def __init__(self) -> None:
        self.objects: list[bytes] = []

    def add(self, body: bytes) -> int:
        self.objects.append(body)
        return len(self.objects)

    def stream(self, data: bytes, entries: bytes = b"") -> int:
        return self.add(b"<< %s /Length %d >>\nstream\n%s\nendstream" % (entries, len(data), data))

    def finish(self, root: int, info: int | None = None) -> bytes:
        out = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
        offsets = []
        for number, body in enumerate(self.objects, 1):
            offsets.append(len(out))
            out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
        start = len(out)
        out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(self.objects) + 1)
        out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
        tail = b" /Info %d 0 R" % info if info else b""
        out += b"trailer\n<< /Size %d /Root %d 0 R%s >>\n" % (len(self.objects) + 1, root, tail)
        out += b"startxref\n%d\n%%%%EOF\n" % start
        return bytes(out)


def _unicode_font(file: PdfBytes) -> int:
    """A font whose codes are the characters' own UTF-16 values."""
    cmap = file.stream(
        b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /U def /CMapType 2 def\n"
        b"1 begincodespacerange <0000> <FFFF> endcodespacerange\n"
        b"1 beginbfrange <0000> <FFFF> <0000> endbfrange\nendcmap end end"
    )
    descendant = file.add(
        b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Plain /DW 600 /CIDSystemInfo "
        b"<< /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> >>"
    )
    return file.add(
        b"<< /Type /Font /Subtype /Type0 /BaseFont /Plain /Encoding /Identity-H "
        b"/DescendantFonts [%d 0 R] /ToUnicode %d 0 R >>" % (descendant, cmap)
    )


def pdf(
    pages: Sequence[str] = ("Hello world",),
    info: bytes = b"",
    catalog: bytes = b"",
    xmp: bytes = b"",
    image: bool = False,
    page: bytes = b"/Type /Page",
) -> bytes:
    """A sound PDF with these texts, a line a line; `image` draws a picture on each page."""
    file = PdfBytes()
    font = _unicode_font(file)
    picture = file.stream(
        b"\x80", b"/Type /XObject /Subtype /Image /Width 1 /Height 1 /BitsPerComponent 8 /ColorSpace /DeviceGray"
    )
    metadata = file.stream(xmp, b"/Type /Metadata /Subtype /XML") if xmp else 0
    tree = len(file.objects) + 2 * len(pages) + 1
    kids = []
    for text in pages:
        content = b"q 100 0 0 100 50 50 cm /Im0 Do Q\n" if image else b""
        for number, line in enumerate(text.split("\n")):
            code = line.encode("utf-16-be").hex().encode()
            content += b"BT /F0 12 Tf 72 %d Td <%s> Tj ET\n" % (720 - 20 * number, code)
        contents = file.stream(content)
        kids.append(
            file.add(
                b"<< %s /Parent %d 0 R /MediaBox [0 0 612 792] /Contents %d 0 R /Resources << /Font "
                b"<< /F0 %d 0 R >> /XObject << /Im0 %d 0 R >> >> >>" % (page, tree, contents, font, picture)
            )
        )
    references = b" ".join(b"%d 0 R" % kid for kid in kids)
    assert file.add(b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(kids), references)) == tree
    information = file.add(b"<< %s >>" % info) if info else None
    link = b"/Metadata %d 0 R" % metadata if metadata else b""
    root = file.add(b"<< /Type /Catalog /Pages %d 0 R %s %s >>" % (tree, link, catalog))
    return file.finish(root, information)


def encrypted_pdf(user: str, owner: str, algorithm: str = "AES-256") -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf(["secret words"]))))
    writer.encrypt(user, owner, algorithm=algorithm)
    return _written(writer)


def pdf_with_attachments(files: dict[str, bytes]) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf())))
    for name, content in files.items():
        writer.add_attachment(name, content)
    return _written(writer)


def pdf_with_bomb_attached(size: int) -> bytes:
    """An attachment of `size` zero bytes, in a file a thousand times smaller."""
    file = PdfBytes()
    packed = zlib.compress(bytes(size), 9)
    stream = file.stream(packed, b"/Type /EmbeddedFile /Filter /FlateDecode")
    spec = file.add(b"<< /Type /Filespec /F (zeros.bin) /UF (zeros.bin) /EF << /F %d 0 R >> >>" % stream)
    tree = len(file.objects) + 2
    kid = file.add(b"<< /Type /Page /Parent %d 0 R /MediaBox [0 0 9 9] /Resources << >> >>" % tree)
    file.add(b"<< /Type /Pages /Count 1 /Kids [%d 0 R] >>" % kid)
    names = b"/Names << /EmbeddedFiles << /Names [(zeros.bin) %d 0 R] >> >>" % spec
    return file.finish(file.add(b"<< /Type /Catalog /Pages %d 0 R %s >>" % (tree, names)))


def _written(writer: PdfWriter) -> bytes:
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def image(kind: str, size: tuple[int, int] = (64, 48), exif: Image.Exif | None = None) -> bytes:
    out = io.BytesIO()
    picture = Image.effect_noise(size, 80).convert("RGB")
    picture.save(out, kind, **({"exif": exif} if exif else {}))
    return out.getvalue()


def tiff_pages(count: int) -> bytes:
    out = io.BytesIO()
    pages = [Image.new("1", (40, 40), number % 2) for number in range(count)]
    pages[0].save(out, "TIFF", save_all=True, append_images=pages[1:])
    return out.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that claims any size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def pdf_that_never_ends(depth: int = 30) -> bytes:
    """Each of `depth` drawings draws the next one ten times: 10 ** depth drawings on one page."""
    file = PdfBytes()
    inner = 0
    for _ in range(depth):
        calls = b"/X Do " * 10 if inner else b"0 0 1 1 re f"
        resources = b"/Resources << /XObject << /X %d 0 R >> >>" % inner if inner else b""
        inner = file.stream(calls, b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] %s" % resources)
    contents = file.stream(b"/X Do " * 10)
    tree = len(file.objects) + 2
    kid = file.add(
        b"<< /Type /Page /Parent %d 0 R /MediaBox [0 0 9 9] /Contents %d 0 R /Resources "
        b"<< /XObject << /X %d 0 R >> >> >>" % (tree, contents, inner)
    )
    file.add(b"<< /Type /Pages /Count 1 /Kids [%d 0 R] >>" % kid)
    return file.finish(file.add(b"<< /Type /Catalog /Pages %d 0 R >>" % tree))


def pdf_with_bomb_as_page(size: int) -> bytes:
    """A page whose contents unpack to `size` bytes of operators."""
    file = PdfBytes()
    contents = file.stream(zlib.compress(b"0 0 m 1 1 l S " * (size // 14), 9), b"/Filter /FlateDecode")
    tree = len(file.objects) + 2
    kid = file.add(
        b"<< /Type /Page /Parent %d 0 R /MediaBox [0 0 9 9] /Contents %d 0 R /Resources << >> >>" % (tree, contents)
    )
    file.add(b"<< /Type /Pages /Count 1 /Kids [%d 0 R] >>" % kid)
    return file.finish(file.add(b"<< /Type /Catalog /Pages %d 0 R >>" % tree))

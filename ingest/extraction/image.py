"""Images: size, pages and EXIF, by Pillow.

Rules of this module:
- Pixels are decoded only to know that the file is whole, never kept, and never more than `MOST_PIXELS`.
- A PNG is checked by its checksums, without decoding. JPEGs are decoded at an eighth of their size (draft
  mode): it reads every byte and costs little.
- EXIF is what a camera wrote: places are numbers, blobs (maker notes, thumbnails) are left out.
- Pillow may open many formats; only the one that identification found is asked, so that a hostile file
  reaches one decoder and not thirty.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from datetime import datetime

from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from ingest.extraction import Document, Seen
from ingest.model import Finding, Json, finding

MOST_PIXELS = 200_000_000  # 600 MB as RGB: more than a scanned A0 plan at 300 dpi
_DECODED_BYTES = 400 * 1024 * 1024  # beyond this an image is taken as it says it is, without decoding
_LONGEST = 2_000  # characters of one EXIF value

_FORMATS: Mapping[str, tuple[str, ...]] = {
    "image/jpeg": ("JPEG", "MPO"),
    "image/png": ("PNG",),
    "image/tiff": ("TIFF",),
    "image/gif": ("GIF",),
    "image/bmp": ("BMP", "DIB"),
    "image/webp": ("WEBP",),
    "image/jp2": ("JPEG2000",),
}
_TRUNCATED = re.compile(r"truncated|unexpected end|broken data stream|not enough|cannot read|incomplete", re.IGNORECASE)


def read(document: Document) -> Seen:
    """Size, number of pages and EXIF of an image; findings if it is cut short, damaged or too large."""
    seen = Seen()
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    Image.MAX_IMAGE_PIXELS = None  # the limit is kept below, where it can be named
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata that is handled here, printed per image
        try:
            with (
                document.path.open("rb") as file,
                Image.open(file, formats=_FORMATS.get(document.mime)) as image,
            ):
                _look(image, document, seen)
        except UnidentifiedImageError:
            seen.findings.append(finding("DAMAGED", f"Expected {document.mime}; its header cannot be read."))
        except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError) as error:
            seen.findings.append(_broken(error))
        except (ZeroDivisionError, OverflowError, RuntimeError, AttributeError, ArithmeticError) as error:
            seen.findings.append(_broken(error))  # Pillow on impossible headers
    return seen


def _broken(error: Exception) -> Finding:
    if _TRUNCATED.search(str(error)) or isinstance(error, EOFError):
        return finding("TRUNCATED", "The image data end before the image is complete.")
    return finding("DAMAGED", f"The image cannot be decoded ({type(error).__name__}).")


def _look(image: ImageFile.ImageFile, document: Document, seen: Seen) -> None:
    width, height = image.size
    seen.metadata |= {"width": width, "height": height, "pages": _pages(image, document, seen)}
    large = width * height > min(MOST_PIXELS, document.limits.expanded_bytes)
    if image.format != "PNG" or "exif" in image.info:  # else Pillow decodes a PNG whole to look behind its pixels
        seen.metadata |= _exif(image, seen)
    if large:
        most = min(MOST_PIXELS, document.limits.expanded_bytes)
        told = f"{width:,} by {height:,} pixels; at most {most:,} are decoded."
        seen.findings.append(finding("EXPANSION-LIMIT", told))
        return
    if image.format == "PNG":
        image.verify()  # by the checksums of its chunks, at a tenth of the cost of decoding
        return
    bytes_per_pixel = len(image.getbands()) * (4 if image.mode in ("I", "F") else 1)
    if image.format in ("JPEG", "MPO"):
        image.draft(None, (max(1, width // 8), max(1, height // 8)))
        bytes_per_pixel = 1
    if width * height * bytes_per_pixel <= min(_DECODED_BYTES, document.limits.memory // 2):
        image.load()


def _pages(image: ImageFile.ImageFile, document: Document, seen: Seen) -> int:
    """Pages of a TIFF; frames of an animation and the previews of a camera are not pages."""
    if image.format != "TIFF":
        return 1
    pages = 1
    try:
        while pages < document.limits.pages:
            image.seek(pages)
            pages += 1
        seen.findings.append(finding("PAGE-LIMIT", f"Only the first {pages:,} pages were counted."))
    except EOFError:
        pass  # Pillow's way to say that there is no further page
    image.seek(0)
    return pages


# --- EXIF --------------------------------------------------------------------------------------------------

_LEFT_OUT = frozenset({"MakerNote", "JPEGThumbnail", "PrintImageMatching", "InterColorProfile", "XMLPacket"})
_BLOCKS: Mapping[int, Mapping[int, str]] = {ExifTags.IFD.Exif: ExifTags.TAGS, ExifTags.IFD.GPSInfo: ExifTags.GPSTAGS}


def _exif(image: Image.Image, seen: Seen) -> dict[str, Json]:
    fields: dict[str, Json] = {}
    try:
        exif = image.getexif()
        blocks = [(exif, ExifTags.TAGS), *((exif.get_ifd(tag), names) for tag, names in _BLOCKS.items())]
        for block, names in blocks:
            for tag, value in dict(block).items():
                name = names.get(tag)
                if name and name not in _LEFT_OUT and tag not in _BLOCKS:
                    plain = _plain(value)
                    if plain is not None:
                        fields[name] = plain
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError, ArithmeticError, RuntimeError) as error:
        seen.findings.append(finding("METADATA-DAMAGED", f"Its EXIF block cannot be read ({type(error).__name__})."))
    if image.format not in ("JPEG", "MPO", "WEBP", "PNG"):
        # A TIFF's own fields (strips, compression) are its structure, and are no claims of a camera.
        fields = {name: value for name, value in fields.items() if name in _OF_A_CAMERA or name.startswith("GPS")}
    return _claims(fields, image)


_OF_A_CAMERA = frozenset(
    [
        "Make",
        "Model",
        "Software",
        "DateTime",
        "DateTimeOriginal",
        "DateTimeDigitized",
        "Artist",
        "Copyright",
        "ImageDescription",
        "Orientation",
        "XResolution",
        "YResolution",
        "ResolutionUnit",
        "DocumentName",
        "HostComputer",
    ]
)


def _claims(fields: dict[str, Json], image: Image.Image) -> dict[str, Json]:
    """The EXIF fields, and those of them that every document has under our own names."""
    claims: dict[str, Json] = {"exif": fields} if fields else {}
    offset = fields.get("OffsetTimeOriginal")
    created = _date(fields.get("DateTimeOriginal") or fields.get("DateTimeDigitized"), offset)
    modified = _date(fields.get("DateTime"), fields.get("OffsetTime"))
    named = {
        "created": created,
        "modified": modified,
        "author": fields.get("Artist"),
        "title": fields.get("ImageDescription") or fields.get("DocumentName") or _png_title(image),
        "producer": fields.get("Software"),
    }
    return claims | {key: value for key, value in named.items() if isinstance(value, str) and value.strip()}


def _png_title(image: Image.Image) -> Json:
    title = image.info.get("Title")
    return str(title)[:_LONGEST] if title and image.format == "PNG" else None


def _date(value: Json, offset: Json) -> str | None:
    """ISO 8601 of EXIF's "YYYY:MM:DD HH:MM:SS"; None for the zeros and blanks that cameras write instead."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.strptime(value.strip()[:19], "%Y:%m:%d %H:%M:%S")  # noqa: DTZ007 - EXIF has no zone
    except ValueError:
        return None
    zone = offset.strip() if isinstance(offset, str) else ""
    return moment.isoformat() + (zone if re.fullmatch(r"[+-]\d\d:\d\d", zone) else "")


def _plain(value: object) -> Json:
    """A JSON value of what Pillow gives; None for blobs and for what says nothing."""
    match value:
        case bool() | int():
            return value
        case TiffImagePlugin.IFDRational() | float():
            number = float(value) if getattr(value, "denominator", 1) else math.nan
            return round(number, 8) if math.isfinite(number) else None
        case bytes():
            text = value.rstrip(b"\0")
            return text.decode("ascii") if text.isascii() and text.decode("ascii").isprintable() and text else None
        case str():
            return value.rstrip("\0 ")[:_LONGEST] or None
        case tuple() | list():
            return [_plain(inner) for inner in value[:64]]
        case _:
            return None

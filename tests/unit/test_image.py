"""Images: size, pages and EXIF. Faults are in tests/bad_files/."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from ingest.extraction import Document, Seen
from ingest.extraction.image import read
from ingest.model import METADATA_KEYS, Limits
from tests.bad_files.pdf_and_image_files import image, tiff_pages

MIMES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "TIFF": "image/tiff",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "WEBP": "image/webp",
    "JPEG2000": "image/jp2",
}


def seen(content: bytes, mime: str, folder: Path) -> Seen:
    path = folder / "a"
    path.write_bytes(content)
    return read(Document(path, "a", mime, Limits(), folder))


def camera() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera\0\0"
    exif[ExifTags.Base.Artist] = "Dana"
    exif[ExifTags.Base.ImageDescription] = "Site visit"
    exif[ExifTags.Base.DateTime] = "2024:02:03 04:05:06"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.DateTimeOriginal] = "2024:01:02 03:04:05"
    details[ExifTags.Base.OffsetTimeOriginal] = "+02:00"
    details[ExifTags.Base.MakerNote] = b"\x01\x02" * 500
    place = exif.get_ifd(ExifTags.IFD.GPSInfo)
    place[ExifTags.GPS.GPSLatitudeRef] = "N"
    place[ExifTags.GPS.GPSLatitude] = (32.0, 4.0, 30.5)
    return exif


@pytest.mark.parametrize("kind", MIMES)
def test_size_of_every_kind(kind: str, tmp_path: Path) -> None:
    result = seen(image(kind, (64, 48)), MIMES[kind], tmp_path)
    assert result.findings == []
    assert (result.metadata["width"], result.metadata["height"], result.metadata["pages"]) == (64, 48, 1)
    assert result.text == ""


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_what_a_camera_wrote(kind: str, tmp_path: Path) -> None:
    metadata = seen(image(kind, exif=camera()), MIMES[kind], tmp_path).metadata
    assert metadata["created"] == "2024-01-02T03:04:05+02:00"
    assert metadata["modified"] == "2024-02-03T04:05:06"
    assert metadata["author"] == "Dana"
    assert metadata["title"] == "Site visit"
    exif = metadata["exif"]
    assert isinstance(exif, dict)
    assert exif["Make"] == "Camera"
    assert exif["GPSLatitude"] == [32.0, 4.0, 30.5]
    assert exif["GPSLatitudeRef"] == "N"
    assert "MakerNote" not in exif
    assert json.loads(json.dumps(metadata)) == metadata
    assert metadata.keys() <= METADATA_KEYS.keys()


def test_a_date_of_zeros_is_no_date(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "0000:00:00 00:00:00"
    assert "created" not in seen(image("JPEG", exif=exif), "image/jpeg", tmp_path).metadata


def test_pages_of_a_tiff_are_counted(tmp_path: Path) -> None:
    assert seen(tiff_pages(7), "image/tiff", tmp_path).metadata["pages"] == 7


def test_only_the_decoder_of_the_identified_format_is_asked(tmp_path: Path) -> None:
    result = seen(image("PNG"), "image/jpeg", tmp_path)
    assert [finding.code for finding in result.findings] == ["DAMAGED"]

"""The floor: the least that could be done with each file, with as many processes and threads as Muniment has.

sha256, libmagic, pypdf's structure and pypdfium2's text of PDFs in processes; one put and one get of boto3 in
threads. Nothing else is parsed, validated, sealed or recorded.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4


def _floor_read(path: Path) -> Path:
    """In a worker: sha256, libmagic, and for a PDF its structure and text."""
    import magic

    content = path.read_bytes()
    hashlib.sha256(content).digest()
    if magic.from_buffer(content[:65536], mime=True) == "application/pdf":
        _floor_pdf(path)
    return path


def _floor_pdf(path: Path) -> None:
    import pypdf
    import pypdfium2

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    with contextlib.suppress(Exception):  # a damaged file costs what it costs until it fails
        reader = pypdf.PdfReader(path)
        _ = reader.metadata, reader.xmp_metadata, len(reader.pages), reader.is_encrypted
    with contextlib.suppress(Exception):
        document = pypdfium2.PdfDocument(path)
        for page in document:
            page.get_textpage().get_text_bounded()
        document.close()


def floor(files: list[Path], client: Any, bucket: str, processes: int, connections: int) -> float:
    """Seconds for the floor over `files`; `client` is boto3's."""
    prefix = f"floor-{uuid4().hex}"

    def put_and_get(path: Path) -> None:
        content = path.read_bytes()
        digest = hashlib.sha256(content).digest()
        key = f"{prefix}/{uuid4().hex}"
        client.put_object(Bucket=bucket, Key=key, Body=content, ChecksumSHA256=base64.b64encode(digest).decode())
        client.get_object(Bucket=bucket, Key=key)["Body"].read()

    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as workers, ThreadPoolExecutor(connections) as threads:
        stored = [threads.submit(put_and_get, path) for path in workers.map(_floor_read, files, chunksize=4)]
        for one in stored:
            one.result()
    return time.monotonic() - started

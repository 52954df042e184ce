"""The catalog as its owner: for tests that prepare by hand, or do what the application's role may not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from retention.archive import Archive
from retention.config import Settings
from retention.database import Connection


@contextmanager
def owning(of: Archive | Settings) -> Iterator[Connection]:
    """One transaction of the owner's, committed at the end of the block."""
    settings = of.settings if isinstance(of, Archive) else of
    assert settings.database_owner_url is not None
    with psycopg.connect(settings.database_owner_url, options="-c timezone=UTC") as conn:
        yield conn

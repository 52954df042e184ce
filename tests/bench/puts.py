"""Puts into the embedded S3 beside bare boto3, and what sealing adds, in one run.

    make bench-storage PUTS=2000

Documents of 50 KiB, by eight threads. The floor is boto3's `put_object` and `get_object` of the same bytes, which is
the least that a put with its read-back could be. A vault's put checks both digests, the version and the lock besides.
Rounds of each kind take turns; of their times the median counts. The goals: a put reaches 0.9 of the floor's
throughput, and sealing costs at most a quarter of the throughput.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from retention import embedded
from retention.embedded import Services
from retention.seal import new_record_key
from retention.vault import ensure_vault
from retention.vault.s3 import S3Vault
from retention.vault.s3_requests import connect, place_of
from retention.vault.s3_wire import connect_wire

PUTS, BYTES, THREADS, ROUNDS = int(os.environ.get("PUTS", "2000")), 50 * 1024, 8, 5


def main() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_WORKSPACE")) as temporary:
        root = Path(temporary)
        services = embedded.up(root, postgres=True, s3=True)
        try:
            found = measured(services)
        finally:
            embedded.down(root)
    print(f"{PUTS:,} puts of {BYTES:,} bytes by {THREADS} threads; {os.cpu_count()} cores")
    for name, rate in found.items():
        print(f"{name:44}{rate:>10,.0f}/s")
    goals = (
        ("a put, beside boto3's put and get", found["put"] / found["boto3: put and get"], 0.9),
        ("a sealed put, beside a put", found["sealed put"] / found["put"], 0.75),
    )
    for name, ratio, least in goals:
        print(f"{name:44}{ratio:>10.2f}   at least {least}   {'ok' if ratio >= least else 'MISSED'}")
    sys.exit(0 if all(ratio >= least for _, ratio, least in goals) else 1)


def measured(services: Services) -> dict[str, float]:
    """Puts a second, of each kind."""
    access, secret, url = services.access_key, services.secret_key, services.vault_url
    ensure_vault(url, access_key=access, secret_key=secret)
    place = place_of(url)
    client = connect(place, access, secret)
    plain, short = S3Vault(place, client), S3Vault(place, client, connect_wire(place, access, secret))
    content = os.urandom(BYTES)

    def bare(number: int) -> None:
        key = f"bare/{uuid4()}"
        client.put_object(Bucket=place.bucket, Key=key, Body=content)
        assert len(client.get_object(Bucket=place.bucket, Key=key)["Body"].read()) == len(content), number

    def put(vault: S3Vault) -> Callable[[int], None]:
        return lambda number: store(vault, number.to_bytes(8, "big") + content[8:])

    def sealed(number: int) -> None:
        store(short, new_record_key().seal(number.to_bytes(8, "big") + content[8:]))

    kinds = {
        "boto3: put and get": bare,
        "put, by boto3": put(plain),
        "put": put(short),
        "sealed put": sealed,
    }
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    with ThreadPoolExecutor(THREADS) as threads:
        for _ in range(ROUNDS + 1):  # the first makes connections and volumes
            for name, kind in kinds.items():
                started = time.perf_counter()
                for _ in threads.map(kind, range(PUTS // ROUNDS)):
                    pass
                taken[name].append(time.perf_counter() - started)
    return {name: PUTS // ROUNDS / statistics.median(times[1:]) for name, times in taken.items()}


def store(vault: S3Vault, content: bytes) -> None:
    digest = sha256(content)
    vault.put(f"records/{uuid4()}/{digest.hexdigest()}", content, sha256=digest.digest(), size=len(content))


if __name__ == "__main__":
    main()

"""Airflow is never imported into the test process: it reads its settings once, and leaves them for all later tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from retention.config import Settings

ROOT = Path(__file__).resolve().parents[2]
Script = Callable[..., subprocess.CompletedProcess[str]]


def clean_environment(home: Path) -> dict[str, str]:
    """The environment of a process that may import Airflow, without settings of the machine's owner."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "MUNIMENT", "AWS_", "PYTHONDONT"))}
    return {
        **kept,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "dags", ROOT / "plugins"))),
    }


@pytest.fixture
def environment(settings: Settings, tmp_path: Path) -> dict[str, str]:
    """What a task finds in its environment: the services of the test, and Airflow's own settings beside them."""
    assert settings.vault_access_key is not None
    assert settings.vault_secret_key is not None
    return {
        **clean_environment(tmp_path / "airflow"),
        "AIRFLOW__CORE__FERNET_KEY": "a-secret-of-the-site",
        "MUNIMENT_WORKSPACE": str(settings.root),
        "MUNIMENT_DATABASE_URL": settings.database_url,
        "MUNIMENT_VAULT_URL": settings.vault_url,
        "AWS_ACCESS_KEY_ID": settings.vault_access_key,
        "AWS_SECRET_ACCESS_KEY": settings.vault_secret_key,
    }


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Run Python text in a process of its own."""

    def run(text: str, env: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "script.py"  # a file, not -c: multiprocessing imports it again
        file.write_text(text)
        return subprocess.run(
            [sys.executable, str(file), *arguments],
            env=dict(env),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    return run

"""A client of the few parts of Airflow's REST API (v2) that `make run` uses.

Rules of this module:
- Airflow is asked over HTTP on 127.0.0.1: a command of its own needs seconds to start, and a proxy of the
  environment is never asked to reach it.
- An answer that is not what the API promises is ServiceUnavailable, with Airflow's own words.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from retention.errors import ServiceUnavailable

Json = dict[str, Any]
_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Site:
    """An Airflow, signed in to. Runs are passed as Airflow describes them (`dag_id`, `dag_run_id`)."""

    client: httpx.Client = field(repr=False)  # its headers have the token

    def dags(self) -> dict[str, Json]:
        return {dag["dag_id"]: dag for dag in self._get("/dags", limit=1000)["dags"]}

    def import_errors(self) -> list[str]:
        """What is wrong with a DAG file: the last line of each error is its message."""
        found = self._get("/importErrors", limit=100)["import_errors"]
        return [f"{one['filename']}: {one['stack_trace'].strip()}" for one in found]

    def parse(self, dag: Json) -> None:
        """Ask Airflow to read the file of a DAG again, now."""
        token = self._get(f"/dags/{quote(dag['dag_id'])}")["file_token"]
        self._send("PUT", f"/parseDagFile/{quote(token, safe='')}", None)

    def trigger(self, dag_id: str) -> Json:
        answer: Json = self._send("POST", f"/dags/{quote(dag_id)}/dagRuns", {"logical_date": None})
        return answer

    def run(self, run: Json) -> Json:
        answer: Json = self._get(_path(run))
        return answer

    def runs(self, dag_id: str) -> list[Json]:
        """Runs of a DAG, the youngest first."""
        found: list[Json] = self._get(f"/dags/{quote(dag_id)}/dagRuns", order_by="-run_after", limit=10)["dag_runs"]
        return found

    def fail(self, run: Json) -> None:
        """End a run and its tasks."""
        self._send("PATCH", _path(run), {"state": "failed"})

    def tasks(self, run: Json) -> list[Json]:
        found: list[Json] = self._get(f"{_path(run)}/taskInstances", limit=200)["task_instances"]
        return sorted(found, key=lambda one: (one["start_date"] or "9", one["map_index"]))

    def xcom(self, run: Json, task: str, key: str) -> Any:
        """What a task left for the others, or None."""
        try:
            path = f"{_path(run)}/taskInstances/{quote(task)}/xcomEntries/{quote(key)}"
            return self._get(path, deserialize="false", stringify="false")["value"]
        except _NotFound:
            return None

    def _get(self, path: str, **query: Any) -> Any:
        return self._send("GET", f"{path}?{urlencode(query)}" if query else path, None)

    def _send(self, method: str, path: str, body: Json | None) -> Any:
        return _ask(self.client, method, f"/api/v2{path}", body)


class _NotFound(ServiceUnavailable):
    pass


@contextmanager
def connect(url: str, user: str, password: str) -> Iterator[Site]:
    """Sign in, for as long as the block runs. Raises ServiceUnavailable."""
    with httpx.Client(base_url=url, timeout=_TIMEOUT, trust_env=False) as client:
        token = _ask(client, "POST", "/auth/token", {"username": user, "password": password})["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        yield Site(client)


def _path(run: Json) -> str:
    return f"/dags/{quote(run['dag_id'])}/dagRuns/{quote(run['dag_run_id'], safe='')}"


def _ask(client: httpx.Client, method: str, path: str, body: Json | None) -> Any:
    asked = f"{method} {client.base_url.join(path)}"
    try:
        answer = client.request(method, path, json=body)
        if answer.is_success:
            return answer.json() if answer.text.strip() else None
    except (httpx.HTTPError, ValueError) as error:
        raise ServiceUnavailable(f"Airflow did not answer {asked}: {error}. `make down`, then again.") from error
    failure = _NotFound if answer.status_code == HTTPStatus.NOT_FOUND else ServiceUnavailable
    raise failure(f"Airflow answered {asked} with {answer.status_code}: {answer.text[:500]}")

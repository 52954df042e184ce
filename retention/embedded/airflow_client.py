"""A client of the few parts of Airflow's REST API (v2) that `make run` uses.

Rules of this module:
- Airflow is asked over HTTP on 127.0.0.1: a command of its own needs seconds to start, and a proxy of the
  environment is never asked to reach it.
- An answer that is not what the API promises is ServiceUnavailable, with Airflow's own words.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from retention.errors import ServiceUnavailable

Json = dict[str, Any]
_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Site:
    """An Airflow, signed in to. Runs are passed as Airflow describes them (`dag_id`, `dag_run_id`)."""

    url: str
    token: str = field(repr=False)

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
        return _ask(method, f"{self.url}/api/v2{path}", body, {"Authorization": f"Bearer {self.token}"})


class _NotFound(ServiceUnavailable):
    pass


def connect(url: str, user: str, password: str) -> Site:
    """Sign in. Raises ServiceUnavailable."""
    token = _ask("POST", f"{url}/auth/token", {"username": user, "password": password}, {})["access_token"]
    return Site(url, token)


def _path(run: Json) -> str:
    return f"/dags/{quote(run['dag_id'])}/dagRuns/{quote(run['dag_run_id'], safe='')}"


def _ask(method: str, url: str, body: Json | None, headers: dict[str, str]) -> Any:
    request = urllib.request.Request(  # noqa: S310 - http on the loopback, as the workspace says
        url,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **headers},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT) as answer:
            text = answer.read()
            return json.loads(text) if text.strip() else None
    except urllib.error.HTTPError as error:
        failure = _NotFound if error.code == 404 else ServiceUnavailable
        said = error.read().decode("utf-8", "replace")[:500]
        raise failure(f"Airflow answered {method} {url} with {error.code}: {said}") from None
    except (OSError, ValueError) as error:
        raise ServiceUnavailable(f"Airflow did not answer {method} {url}: {error}. `make down`, then again.") from error

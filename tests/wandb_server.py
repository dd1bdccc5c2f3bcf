"""A W&B server on this machine, as much of one as the client needs to log runs to it and to read them back."""

from __future__ import annotations

import gzip
import json
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

ENTITY = "tester"
_PROJECT = {"id": "UHJvamVjdDox", "internalId": "1", "entityName": ENTITY, "createdAt": "2026-01-01T00:00:00Z"}
_PAGE = {"endCursor": None, "hasNextPage": False}


class WandbServer:
    """Start it with `with`; `environment` is what a client needs to find it. `unknown` are operations it lacks."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.lines: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
        self.unknown: list[str] = []
        self._lock = threading.RLock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if self.headers.get("transfer-encoding") == "chunked":
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                with outer._lock:
                    said = json.dumps(outer._reply(self.path.partition("?")[0], body)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            do_GET = do_POST = do_PUT = answer  # noqa: N815 - the names that http.server calls

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                """Clients hang up on connections that they keep alive."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": "0" * 40,
            "WANDB_MODE": "online",
            "WANDB_ERROR_REPORTING": "false",
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _reply(self, path: str, body: bytes) -> dict[str, Any]:
        if path.endswith("/file_stream"):
            return self._streamed(path.split("/")[-2], json.loads(body))
        if path != "/graphql":
            return {}
        asked = json.loads(body)
        operation = asked.get("operationName") or asked["query"].split("(")[0].split("{")[0].split()[-1]
        answer = getattr(self, f"_{operation}", None)
        if answer is None:
            self.unknown.append(operation)
            return {"data": None, "errors": [{"message": f"this server has no {operation}"}]}
        return {"data": answer(asked.get("variables") or {})}

    def _streamed(self, run: str, said: dict[str, Any]) -> dict[str, Any]:
        for name, part in (said.get("files") or {}).items():
            for at, line in enumerate(part["content"]):
                self.lines[run, name][part["offset"] + at] = line
        if said.get("complete"):
            self.runs[run]["state"] = "failed" if said.get("exitcode") else "finished"
        return {"exitcode": None, "limits": {}}

    def _rows(self, run: str, name: str) -> list[dict[str, Any]]:
        lines = self.lines[run, name]
        return [json.loads(lines[at]) for at in sorted(lines)]

    # Operations of GraphQL, by their names -------------------------------------------------------------------

    def _Viewer(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        team = {"edges": [{"node": {"name": ENTITY}}]}
        about = {"id": "1", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": "t@localhost"}
        more = {"admin": False, "flags": "{}", "apiKeys": {"edges": []}, "teams": team, "userEntity": {"name": ENTITY}}
        return {"viewer": about | more}

    _GetViewer = _UserViewer = _GetDefaultEntity = _Viewer

    def _ServerFeaturesQuery(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def _ServerInfo(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        latest = {"outOfDate": False, "latestVersionString": "0.80.0", "versionOnThisInstanceString": "0.80.0"}
        return {"serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": latest, "features": []}}

    def _OrganizationCoreWeaveOrganizationID(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def _OrgFeatureFlags(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"organization": {"featureFlags": []}}

    def _RunResumeStatus(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"model": {**self._project(asked["project"]), "bucket": None}}

    def _RunStoppedStatus(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"project": {"run": {"stopped": False}}}

    def _CreateRunFiles(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        files = [{"name": name, "uploadUrl": f"{self.url}/storage/{i}"} for i, name in enumerate(asked["files"])]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}

    def _UpsertBucket(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        key = asked.get("name") or asked["id"]
        new = key not in self.runs
        run = self.runs.setdefault(
            key, {"project": asked.get("project"), "state": "running", "tags": [], "group": None}
        )
        for name in ("displayName", "config", "summaryMetrics", "tags"):
            if asked.get(name) is not None:
                run[name] = asked[name]
        run["group"] = asked.get("groupName") or run["group"]
        bucket = {"id": key, "name": key, "displayName": run.get("displayName", key), "description": None}
        bucket |= {"config": run.get("config", "{}"), "sweepName": None, "historyLineCount": 0}
        return {"upsertBucket": {"inserted": new, "bucket": bucket | {"project": self._project(run["project"])}}}

    def _Run(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        known = asked["name"] in self.runs
        return {"project": {**self._project(asked["project"]), "run": self._node(asked["name"]) if known else None}}

    _RunHistoryKeys = _RunState = _Run

    def _Runs(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        keys = [key for key, run in self.runs.items() if run["project"] == asked["project"]]
        if not keys:
            return {"project": None}
        edges = [{"node": self._node(key), "cursor": key} for key in keys]
        project = {"internalId": "1", "runCount": len(keys), "readOnly": False}
        return {"project": project | {"runs": {"edges": edges, "pageInfo": _PAGE}}}

    def _RunParquetHistory(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}

    def _HistoryPage(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        rows = self._rows(asked["run"], "wandb-history.jsonl")
        kept = [json.dumps(row) for row in rows if asked["minStep"] <= row["_step"] < asked["maxStep"]]
        return {"project": {"run": {"history": kept}}}

    def _project(self, name: str) -> dict[str, Any]:
        return {**_PROJECT, "name": name, "isBenchmark": False, "entity": {"id": "1", "name": ENTITY}}

    def _node(self, key: str) -> dict[str, Any]:
        run = self.runs[key]
        rows = self._rows(key, "wandb-history.jsonl")
        summary = (self._rows(key, "wandb-summary.json") or [json.loads(run.get("summaryMetrics") or "{}")])[-1]
        counts = {name: {"typeCounts": [{"type": "number", "count": 1}]} for row in rows for name in row}
        last = rows[-1]["_step"] if rows else -1
        when = {"createdAt": "2026-01-01T00:00:00Z", "heartbeatAt": "2026-01-01T00:00:00Z"}
        nothing = dict.fromkeys(("sweepName", "jobType", "commit", "description", "notes"))
        return {
            "id": key,
            "name": key,
            "displayName": run.get("displayName", key),
            "tags": run["tags"],
            "state": run["state"],
            "config": run.get("config", "{}"),
            "group": run["group"],
            "readOnly": False,
            "systemMetrics": "{}",
            "summaryMetrics": json.dumps(summary),
            "historyLineCount": len(rows),
            "user": {"name": ENTITY, "username": ENTITY},
            "historyKeys": {"sets": [], "keys": counts, "lastStep": last},
            "projectId": "1",
            **when,
            **nothing,
        }

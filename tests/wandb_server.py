"""A W&B server on this machine, as much of one as the client needs to log runs to it and to read them back."""

from __future__ import annotations

import base64
import gzip
import json
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from typing import Any, Self
from urllib.parse import quote

import pytest

#: For what an offline run's file holds.
leet_inspect = pytest.mark.skipif(
    tuple(int(part) for part in version("wandb").split(".")[:2]) < (0, 31),
    reason="`wandb leet inspect --json` came with wandb 0.31",
)
ENTITY = "tester"
KEY = "0" * 40
_PROJECT = {"id": "UHJvamVjdDox", "internalId": "1", "entityName": ENTITY, "createdAt": "2026-01-01T00:00:00Z"}
_STREAMS = {"history": "wandb-history.jsonl", "events": "wandb-events.jsonl", "log": "output.log"}
_PAGE = {"endCursor": None, "hasNextPage": False}


class WandbServer:
    """Start it with `with`; `environment` is what a client needs to find it. `unknown` are operations it lacks.

    Args:
        slow_s: Seconds that each answer takes.
    """

    def __init__(self, slow_s: float = 0.0) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.lines: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
        self.files: dict[str, bytes] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.sweeps: dict[str, str] = {}
        self.jobs: list[dict[str, Any]] = []
        self.asked: list[str] = []
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
                path, known = self.path.partition("?")[0], outer._knows(self.headers.get("authorization"))
                if slow_s:
                    time.sleep(slow_s)
                with outer._lock:
                    if path.startswith("/storage/"):
                        said = outer._stored(self.command, path, body)
                    else:
                        said = json.dumps(outer._reply(path, body) if known else {"errors": ["no such key"]}).encode()
                self.send_response(200 if known or path.startswith("/storage/") else 401)
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
            "WANDB_API_KEY": KEY,
            "WANDB_MODE": "online",
            "WANDB_ERROR_REPORTING": "false",
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def history(self, run: str) -> list[dict[str, Any]]:
        """The rows that a run logged."""
        return self._rows(run, "wandb-history.jsonl")

    def summary(self, run: str) -> dict[str, Any]:
        """Its summary."""
        kept: dict[str, Any] = json.loads(self._node(run)["summaryMetrics"])
        return kept

    def config(self, run: str) -> dict[str, Any]:
        """Its config, without W&B's own part."""
        told = json.loads(self.runs[run].get("config") or "{}")
        return {name: entry["value"] for name, entry in told.items() if name != "_wandb"}

    def defined(self, run: str) -> dict[str, dict[str, Any]]:
        """What `define_metric` told, by the metric's name or pattern."""
        told = json.loads(self.runs[run].get("config") or "{}").get("_wandb", {}).get("value", {}).get("m", [])
        return {entry.get("1") or entry["2"]: entry for entry in told}

    @staticmethod
    def _knows(authorization: str | None) -> bool:
        """Whether the request bears the key; a client asks for some pages without any."""
        if authorization is None:
            return True
        return base64.b64decode(authorization.removeprefix("Basic ")).decode().rpartition(":")[2] == KEY

    def _stored(self, command: str, path: str, body: bytes) -> bytes:
        """A file that the client puts or gets."""
        name = path.removeprefix("/storage/")
        if command == "PUT":
            self.files[name] = body
            return b"{}"
        return self.files.get(name, b"")

    def _reply(self, path: str, body: bytes) -> dict[str, Any]:
        if path.endswith("/file_stream"):
            return self._streamed(path.split("/")[-2], json.loads(body))
        if path != "/graphql":
            return {}
        asked = json.loads(body)
        operation = asked.get("operationName") or asked["query"].split("(")[0].split("{")[0].split()[-1]
        self.asked.append(operation)
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

    def _tail(self, run: str, name: str) -> list[str]:
        """The last line of a stream, as text."""
        lines = self.lines[run, name]
        return [lines[max(lines)]] if lines else []

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

    # What wandb below 0.31 asks of the schema before it uses a newer part of it.

    def _InputFields(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"TypeInfo": {"inputFields": []}}

    def _ProbeRunInput(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"RunType": {"fields": [{"name": "projectId"}]}}

    def _ProbeServerCapabilities(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        known = {"QueryType": [], "MutationType": [{"name": "createRunFiles"}], "ServerInfoType": []}
        return {part: {"fields": fields} for part, fields in known.items()}

    def _ProbeServerSettings(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"ServerSettingsType": {"fields": []}}

    def _ProbeServerArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"ArtifactInfoType": {"fields": [{"name": "aliases"}]}}

    def _RunResumeStatus(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        key = asked["name"]
        bucket: dict[str, Any] | None = None
        if key in self.runs:
            counts = {f"{part}LineCount": len(self.lines[key, name]) for part, name in _STREAMS.items()}
            tails = {f"{part}Tail": json.dumps(self._tail(key, name)) for part, name in _STREAMS.items()}
            kept = {"config": self.runs[key].get("config", "{}"), "summaryMetrics": json.dumps(self.summary(key))}
            bucket = {
                "name": key,
                "displayName": self.runs[key].get("displayName", key),
                "tags": [],
                "wandbConfig": '{"t": 1}',
            }
            bucket |= counts | tails | kept
        return {"model": {**self._project(asked["project"]), "bucket": bucket}}

    def _RunStoppedStatus(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"project": {"run": {"stopped": False}}}

    def _CreateRunFiles(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        files = [
            {"name": name, "uploadUrl": f"{self.url}/storage/{asked['run']}/{quote(name)}"} for name in asked["files"]
        ]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}

    def _UpsertBucket(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        key = asked.get("name") or asked["id"]
        new = key not in self.runs
        run = self.runs.setdefault(
            key, {"project": asked.get("project"), "state": "running", "tags": [], "group": None}
        )
        for name in ("displayName", "config", "summaryMetrics", "tags", "jobType"):
            if asked.get(name) is not None:
                run[name] = asked[name]
        run["group"] = asked.get("groupName") or run["group"]
        bucket = {"id": key, "name": key, "displayName": run.get("displayName", key), "description": None}
        lines = len(self.lines[key, _STREAMS["history"]])
        bucket |= {"config": run.get("config", "{}"), "sweepName": None, "historyLineCount": lines}
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

    # Reports and saved views ----------------------------------------------------------------------------------

    def _upsertView(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        key = asked.get("id") or base64.b64encode(f"View:{len(self.views) + 1}".encode()).decode().rstrip("=")
        before = self.views.get(key)
        names = ("type", "name", "displayName", "description", "spec")
        when = {"createdAt": "2026-01-01T00:00:00", "updatedAt": f"2026-01-01T00:00:{len(self.asked) % 60:02d}"}
        about = {"id": key, "project": self._project(asked["projectName"]), "user": {"username": ENTITY}, **when}
        self.views[key] = {**(before or {}), **{name: asked.get(name) or "" for name in names}, **about}
        return {"upsertView": {"view": self.views[key], "inserted": before is None}}

    _UpsertView2 = _upsertView

    def _View(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"project": {"allViews": self._listed(asked)}}

    def _ProjectViews(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"project": {"allViews": self._listed(asked)}}

    def _listed(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Views of the type that is asked for, of one name where one is given."""
        kind, name = asked.get("viewType") or "runs", asked.get("viewName")
        found = [view for view in self.views.values() if view["type"] == kind and name in (None, view["name"])]
        return {"edges": [{"node": view, "cursor": view["id"]} for view in found], "pageInfo": _PAGE}

    def _SpecificReport(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"view": self.views.get(asked["reportId"].rstrip("="))}

    def _GetProjects(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        names = dict.fromkeys([run["project"] for run in self.runs.values()])
        nodes = [{"__typename": "Project", **self._project(name), "user": None} for name in names]
        page = {"__typename": "PageInfo", **_PAGE}
        return {"models": {"pageInfo": page, "edges": [{"node": node, "cursor": node["name"]} for node in nodes]}}

    _Projects = _GetProjects

    def _GetProject(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"project": {"__typename": "Project", **self._project(asked["name"]), "user": None}}

    def _ProjectInternalId(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"project": self._project(asked["projectName"])}

    def _CreateProject(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        made = {**self._project(asked["input"]["name"]), "description": None, "access": "PRIVATE", "views": "{}"}
        return {"result": {"project": made, "model": made, "inserted": True}}

    # Artifacts: tables of runs, checkpoints -------------------------------------------------------------------

    def _ArtifactType(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"project": {"artifact": None}}

    def _CreateArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        key = f"QXJ0aWZhY3Q{len(self.artifacts)}"
        self.artifacts[key] = asked["input"]
        sequence = {"artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": {"id": key, "state": "PENDING", **sequence}}}

    def _CreateArtifactManifest(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        at = f"{self.url}/storage/artifact/{asked['artifactID']}/{quote(asked['name'])}"
        file = {"id": f"f-{asked['artifactID']}", "uploadUrl": at, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": f"m-{asked['artifactID']}", "file": file}}}

    def _UpdateArtifactManifest(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        at = f"{self.url}/storage/artifact/{asked['artifactManifestID'][2:]}/wandb_manifest.json"
        file = {"id": "f", "uploadUrl": at, "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": asked["artifactManifestID"], "file": file}}}

    def _CreateArtifactFiles(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        nodes = []
        for told in asked.get("artifactFiles") or asked["input"]["artifactFiles"]:
            name, of = told["name"], told["artifactID"]
            at = f"{self.url}/storage/artifact/{of}/{quote(name)}"
            node = {"id": "x", "name": name, "displayName": name, "storagePath": f"s/{name}", "artifact": {"id": of}}
            nodes.append({"node": {**node, "uploadUrl": at, "uploadHeaders": [], "uploadMultipartUrls": None}})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _CommitArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        digest = self.artifacts[asked["artifactID"]]["digest"]
        return {"commitArtifact": {"artifact": {"id": asked["artifactID"], "digest": digest}}}

    def _ArtifactByIDShort(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        made = self.artifacts[asked["id"]]
        collection = {"name": made["artifactCollectionName"], "project": self._project(made["projectName"])}
        about = dict.fromkeys(("description", "commitHash", "currentManifest", "updatedAt"))
        about |= {"metadata": "{}", "aliases": [], "fileCount": 1, "createdAt": "2026-01-01T00:00:00Z"}
        of = {"artifactSequence": collection, "artifactType": {"name": made["artifactTypeName"]}, "versionIndex": 0}
        return {"artifact": {"id": asked["id"], "state": "COMMITTED", **about, **of}}

    def _ArtifactManifest(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        collection = asked["name"].partition(":")[0]
        (*_, key) = (key for key, made in self.artifacts.items() if made["artifactCollectionName"] == collection)
        file = {"id": f"f-{key}", "directUrl": f"{self.url}/storage/artifact/{key}/wandb_manifest.json"}
        return {"project": {"artifact": {"currentManifest": {"id": f"m-{key}", "file": file}}}}

    def _ClientIDMapping(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        found = [key for key, made in self.artifacts.items() if made["clientID"] == asked["clientID"]]
        return {"clientIDMapping": {"serverID": found[0] if found else None}}

    # Sweeps: what an agent is to run is put into `jobs` --------------------------------------------------------

    def _UpsertSweep(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.sweeps["sweep1"] = asked["config"]
        return {"upsertSweep": {"sweep": {"name": "sweep1", "project": self._project(asked["projectName"])}}}

    def _GetSweepState(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"project": {"sweep": {"id": "1", "name": asked["sweep"], "state": "RUNNING"}}}

    def _CreateAgent(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"createAgent": {"agent": {"id": "agent1"}}}

    def _Heartbeat(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        idle = not any(json.loads(asked["runState"]).values())
        command = [self.jobs.pop(0) if self.jobs else {"type": "exit"}] if idle else []
        return {"agentHeartbeat": {"agent": {"id": "agent1"}, "commands": json.dumps(command)}}

    def _RunFullHistory(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        found = {part: self._rows(asked["name"], _STREAMS[part]) for part in ("history", "events")}
        return {"project": {"run": {part: [json.dumps(row) for row in rows] for part, rows in found.items()}}}

    def _project(self, name: str) -> dict[str, Any]:
        return {**_PROJECT, "name": name, "isBenchmark": False, "entity": {"id": "1", "name": ENTITY}}

    def _node(self, key: str) -> dict[str, Any]:
        run = self.runs[key]
        rows = self._rows(key, "wandb-history.jsonl")
        summary = (self._rows(key, "wandb-summary.json") or [json.loads(run.get("summaryMetrics") or "{}")])[-1]
        counts = {name: {"typeCounts": [{"type": "number", "count": 1}]} for row in rows for name in row}
        last = rows[-1]["_step"] if rows else -1
        when = {"createdAt": "2026-01-01T00:00:00Z", "heartbeatAt": "2026-01-01T00:00:00Z"}
        nothing = dict.fromkeys(("sweepName", "commit", "description", "notes"))
        return {
            "id": key,
            "name": key,
            "displayName": run.get("displayName", key),
            "tags": run["tags"],
            "state": run["state"],
            "jobType": run.get("jobType"),
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

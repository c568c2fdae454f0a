"""The real ComfyUI: a server process that has this project as a node pack, and a client that runs graphs on it.

A test takes the fixtures `server` (one per session) and `client` (one per test):

    run = client.run({"1": {"class_type": "LGVILoader", "inputs": {...}}, ...})
    file = run.outputs["2"]["images"][0]
    data = server.view(file)

Results are cached between prompts: a test that is about work being done gives its nodes inputs no other test uses.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
import websocket
from comfy_cli.workflow_to_api import convert_ui_to_api

ROOT = Path(__file__).parent.parent
PACK = "any-other-name"  # the folder's name is the module's name and the web path: nothing may depend on it
START_LIMIT = 180  # seconds
RUN_LIMIT = 300  # seconds for one prompt
BARE = ROOT / "tests" / "bare"  # on PYTHONPATH it hides what ComfyUI does not itself install
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(BARE), "PYTHONDONTWRITEBYTECODE": "1"}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
ENDINGS = {"execution_success": "success", "execution_error": "error", "execution_interrupted": "interrupted"}
ONLY_ON_THE_PAGE = {"Note", "MarkdownNote", "PrimitiveNode", "Reroute"}


@dataclass
class Run:
    """What one prompt did: every event the server sent about it, and what its output nodes show."""

    prompt_id: str
    status: str  # "success", "error" or "interrupted"
    events: list[tuple[str, dict]]
    outputs: dict[str, dict]  # node id -> its `ui`

    def of(self, kind: str) -> list[dict]:
        """The data of all events of one kind, in order."""
        return [data for name, data in self.events if name == kind]

    @property
    def cached(self) -> set[str]:
        """Ids of the nodes that did not run because nothing they depend on changed."""
        return {node for data in self.of("execution_cached") for node in data["nodes"]}

    @property
    def ran(self) -> list[str]:
        """Ids of the nodes that ran, in order."""
        return [data["node"] for data in self.of("executing") if data["node"]]

    @property
    def error(self) -> dict:
        """`node_id`, `node_type`, `exception_type`, `exception_message`, ... of a prompt that failed."""
        (data,) = self.of("execution_error")
        return data


class Server:
    """A ComfyUI that answers at `url`; `base` is its base directory (models, input, output, temp, custom_nodes)."""

    def __init__(self, url: str, base: Path):
        self.url, self.base = url, base

    def get(self, path: str, **parameters) -> requests.Response:
        """The answer to a GET; HTTP errors raise."""
        answer = requests.get(self.url + path, params=parameters, timeout=60)
        answer.raise_for_status()
        return answer

    def post(self, path: str, body: dict) -> requests.Response:
        """The answer to a POST of JSON; HTTP errors do not raise."""
        return requests.post(self.url + path, json=body, timeout=60)

    def nodes(self) -> dict[str, dict]:
        """What the server says of each of the pack's nodes, by node id."""
        module = f"custom_nodes.{PACK}"
        return {name: info for name, info in self.get("/object_info").json().items() if info["python_module"] == module}

    def node(self, class_type: str, **inputs) -> dict:
        """A node of a graph as the page would add it: every widget at its default but for `inputs`."""
        groups = self.get(f"/object_info/{class_type}").json()[class_type]["input"]
        return {"class_type": class_type, "inputs": _defaults(groups) | inputs}

    def view(self, file: dict) -> bytes:
        """The content of a file named in a node's `ui`: {"filename", "subfolder", "type"}."""
        return self.get("/view", **{key: file[key] for key in ("filename", "subfolder", "type")}).content

    def add_input(self, source: Path, name: str | None = None) -> str:
        """Put a file into the input folder, as an upload would; the name for Load Video and Load Image."""
        target = self.base / "input" / (name or source.name)
        target.write_bytes(source.read_bytes())
        return target.name

    def graph_of(self, workflow: dict) -> dict:
        """A workflow as the page saves it, turned into the graph that `Client.run` takes."""
        graph = convert_ui_to_api(workflow, self.get("/object_info").json())
        active = [node for node in workflow["nodes"] if not node["mode"] and node["type"] not in ONLY_ON_THE_PAGE]
        lost = {str(node["id"]) for node in active} - set(graph)
        assert not lost, f"the nodes {sorted(lost)} could not be turned into a prompt"
        return graph

    def log(self) -> str:
        """Everything the server has printed."""
        return (self.base / "server.log").read_text(errors="replace")


class Client:
    """One browser tab's connection: queues graphs and receives the events about them."""

    def __init__(self, server: Server):
        self.server, self.id = server, uuid.uuid4().hex
        self.events: dict[str, list] = defaultdict(list)  # by prompt id
        self.previews: list[bytes] = []  # the binary messages
        self.socket = websocket.create_connection(
            server.url.replace("http", "ws", 1) + f"/ws?clientId={self.id}", timeout=60
        )

    def queue(self, graph: dict, **extra) -> str:
        """Queue a graph; its prompt id. `extra` goes into the request."""
        answer = self.server.post("/prompt", {"prompt": graph, "client_id": self.id, **extra})
        assert answer.status_code == 200, answer.text
        return answer.json()["prompt_id"]

    def refusal(self, graph: dict) -> dict:
        """Queue a graph that must be refused before it runs; the answer: `error` and `node_errors`."""
        answer = self.server.post("/prompt", {"prompt": graph, "client_id": self.id})
        assert answer.status_code == 400, answer.text
        return answer.json()

    def wait(self, prompt_id: str, limit: float = RUN_LIMIT, on_event=None) -> Run:
        """Wait until a queued prompt ended; `on_event(kind, data)` is called with each event about it."""
        end = time.monotonic() + limit
        seen = 0
        while True:
            for kind, data in self.events[prompt_id][seen:]:
                seen += 1
                if on_event:
                    on_event(kind, data)
                if kind in ENDINGS:
                    history = self.history(prompt_id)
                    return Run(prompt_id, ENDINGS[kind], self.events[prompt_id], history["outputs"])
            self._receive(end)

    def run(self, graph: dict, expect: str = "success", limit: float = RUN_LIMIT, on_event=None) -> Run:
        """Queue a graph and wait for it; any other end than `expect` ("success", "error", "interrupted") fails."""
        run = self.wait(self.queue(graph), limit, on_event)
        assert run.status == expect, f"{run.status}: {run.events[-1]}\n{self.server.log()[-4000:]}"
        return run

    def history(self, prompt_id: str) -> dict:
        """The history's entry of a prompt that ended; the server writes it a moment after the last event."""
        end = time.monotonic() + 30
        while prompt_id not in (found := self.server.get(f"/history/{prompt_id}").json()):
            assert time.monotonic() < end, f"prompt {prompt_id} did not appear in the history"
            time.sleep(0.02)
        return found[prompt_id]

    def close(self) -> None:
        self.socket.close()

    def _receive(self, end: float) -> None:
        """Take one message from the socket."""
        self.socket.settimeout(max(0.1, end - time.monotonic()))
        try:
            message = self.socket.recv()
        except websocket.WebSocketTimeoutException:
            raise TimeoutError(f"a prompt did not end in time:\n{self.server.log()[-4000:]}") from None
        if isinstance(message, bytes):
            self.previews.append(message)
            return
        event = json.loads(message)
        self.events[event["data"].get("prompt_id")].append((event["type"], event["data"]))


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _defaults(groups: dict, prefix: str = "") -> dict:
    """The values a new node's widgets have; a choice that brings its own inputs names them `choice.input`."""
    values = {}
    for name, (kind, *options) in (groups.get("required", {}) | groups.get("optional", {})).items():
        option = options[0] if options else {}
        offered = kind if isinstance(kind, list) else option.get("options")
        if kind == "COMFY_DYNAMICCOMBO_V3":
            values[prefix + name] = offered[0]["key"]
            values |= _defaults(offered[0]["inputs"], f"{prefix}{name}.")
        elif "default" in option:
            values[prefix + name] = option["default"]
        elif offered:
            values[prefix + name] = offered[0]
    return values


@contextmanager
def running(comfyui: Path, base: Path, *arguments: str):
    """Run ComfyUI on a free port with this checkout as a pack; yields a Server and ends it.

    `base` is an empty folder, `arguments` go to ComfyUI. Fails when it does not answer, or could not import the pack.
    """
    for name in ("custom_nodes", "models", "input", "output", "user", "temp"):
        (base / name).mkdir()
    (base / "custom_nodes" / PACK).symlink_to(ROOT)
    port = free_port()
    server = Server(f"http://127.0.0.1:{port}", base)
    command = [sys.executable, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:", "--preview-method", "auto"]
    with open(base / "server.log", "wb") as log:
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=comfyui,
            env=ENVIRONMENT,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_until_ready(server, process)
        assert "IMPORT FAILED" not in server.log(), server.log()[-8000:]
        yield server
    finally:
        _end(process)


def _wait_until_ready(server: Server, process: subprocess.Popen) -> None:
    end = time.monotonic() + START_LIMIT
    while True:
        try:
            server.get("/object_info")
            return
        except requests.ConnectionError:
            assert process.poll() is None, f"ComfyUI ended while starting:\n{server.log()[-8000:]}"
            assert time.monotonic() < end, f"ComfyUI did not answer in {START_LIMIT} s:\n{server.log()[-8000:]}"
            time.sleep(0.2)


def _end(process: subprocess.Popen) -> None:
    """End the whole process group, so that nothing it started is left."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
    except ProcessLookupError:
        process.wait(10)

"""The pack in the hands of comfy-cli: validated, packed, installed into a fresh ComfyUI, launched, run, stopped."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import requests
import tomlkit
from host_server import ENVIRONMENT, ROOT, Server, free_port

REGISTRY_PORT = 8080  # where comfy-cli looks for a registry that is not the public one
ALWAYS = {"__init__.py", "LICENSE", "README.md", "pyproject.toml", "requirements.txt", "nodes/__init__.py"}
DEMO = {
    f"lgvi_core/demo/{name}.safetensors"
    for name in ("lgvi-demo", "fill-demo", "fill-outline", "talk-demo")
} | {"lgvi_core/demo/clip.mp4"}
FOLDERS = {"js", "lgvi_core", "locales", "nodes", "workflows"}
LARGE = 300_000  # bytes; nothing but the demo is larger
WORKFLOW = ROOT / "workflows" / "remove-by-words.json"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home folder for comfy-cli's settings."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def comfy(home):
    """Runs comfy-cli: `comfy(*arguments, cwd=...)` gives what it printed; a status other than 0 fails."""
    programs = Path(sys.executable).parent
    environment = {**ENVIRONMENT, "HOME": str(home), "ENVIRONMENT": "dev", "COLUMNS": "200", "NO_COLOR": "1"}
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    environment.pop("VIRTUAL_ENV", None)  # it would take the place of the Python that runs it

    def run(*arguments, cwd: Path, limit: float = 300) -> str:
        done = subprocess.run(
            [programs / "comfy", "--skip-prompt", "--no-json", *arguments],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
        )
        assert done.returncode == 0, f"{' '.join(arguments)}:\n{done.stdout}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A repository with the files of this one that git does not ignore: packing writes into it."""
    listing = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    copy = tmp_path_factory.mktemp("checkout")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    subprocess.run(["git", "init", "--quiet"], cwd=copy, check=True)
    subprocess.run(["git", "add", "--all"], cwd=copy, check=True)
    return copy


@pytest.fixture(scope="module")
def pack(comfy, checkout):
    """The zip that publishing would upload."""
    comfy("node", "pack", cwd=checkout)
    return checkout / "node.zip"


@pytest.fixture(scope="module")
def registry(pack):
    """A registry on this machine that offers the zip as `lgvi`."""

    class Registry(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path.partition("?")[0] == "/nodes/lgvi/install":
                answer = {"id": "lgvi", "version": "0.1.0", "changelog": "", "dependencies": [], "deprecated": False}
                answer["downloadUrl"] = f"http://localhost:{REGISTRY_PORT}/node.zip"
                kind, body = "application/json", json.dumps(answer).encode()
            else:
                kind, body = "application/zip", pack.read_bytes()
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", REGISTRY_PORT), Registry)
    except OSError as error:
        pytest.skip(f"port {REGISTRY_PORT}, where comfy-cli looks for a registry, is in use: {error}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def workspace(comfy, comfyui, registry, tmp_path_factory):
    """A fresh ComfyUI into which comfy-cli has installed the pack from the registry."""
    workspace = tmp_path_factory.mktemp("workspace") / "ComfyUI"
    shutil.copytree(comfyui, workspace, ignore=shutil.ignore_patterns("__pycache__"))
    comfy("--workspace", str(workspace), "node", "registry-install", "lgvi", "--force-download", cwd=workspace)
    return workspace


@pytest.fixture(scope="module")
def launched(comfy, workspace):
    """The workspace's server, launched and stopped by comfy-cli."""
    port = free_port()
    options = ["--cpu", "--port", str(port), "--database-url", "sqlite:///:memory:"]
    comfy("--workspace", str(workspace), "launch", "--background", "--", *options, cwd=workspace)
    yield Server(f"http://127.0.0.1:{port}", workspace)
    comfy("--workspace", str(workspace), "stop", cwd=workspace)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{port}/", timeout=10)


def graph(server):
    """What to run: the shipped workflow, else the loader alone."""
    if WORKFLOW.exists():
        return json.loads(WORKFLOW.read_text("utf-8"))
    return {"1": server.node("LGVILoader"), "2": server.node("PreviewAny", source=["1", 0])}


def test_validation_has_nothing_to_say_of_what_is_published(comfy, checkout, pack, tmp_path):
    assert "error:" not in comfy("node", "validate", cwd=checkout).lower()
    with zipfile.ZipFile(pack) as file:
        file.extractall(tmp_path)
    said = comfy("node", "validate", cwd=tmp_path)
    assert "All validation checks passed" in said
    assert not re.search("warning|error", said, re.IGNORECASE), said


def test_pyproject_says_what_the_registry_wants():
    config = tomlkit.parse((ROOT / "pyproject.toml").read_text("utf-8"))
    project, comfy = config["project"], config["tool"]["comfy"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert "comfy" not in project["name"].lower()
    assert project["license"] == "Apache-2.0" and (ROOT / "LICENSE").is_file()
    assert project["urls"]["Repository"].startswith("https://")
    assert comfy["PublisherId"] and comfy["DisplayName"]
    assert comfy["Icon"].startswith("https://") and comfy["Icon"].endswith("/icon.png")
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    assert "web" not in comfy  # beside WEB_DIRECTORY in __init__.py, the page would load the scripts twice


def test_the_nodes_require_nothing_beyond_comfyui():
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    assert [line for line in lines if line.strip() and not line.startswith("#")] == []


def test_the_zip_holds_what_the_nodes_need_and_nothing_else(pack):
    with zipfile.ZipFile(pack) as file:
        sizes = {info.filename: info.file_size for info in file.infolist()}
    assert sizes.keys() >= ALWAYS | DEMO
    assert {name.partition("/")[0] for name in sizes if "/" in name} == FOLDERS
    assert {name for name in sizes if "/" not in name} <= ALWAYS
    for folder in FOLDERS:
        tracked = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
        missing = {name for name in tracked - sizes.keys() if "__pycache__" not in name}
        assert not missing, f"{folder} is not whole in the zip: {missing}"
    large = {name: size for name, size in sizes.items() if size > LARGE and name not in DEMO}
    assert not large, f"large files that every user would download: {large}"
    assert pack.stat().st_size < 60_000_000


def test_the_pack_installs_as_a_folder_of_custom_nodes(workspace):
    installed = workspace / "custom_nodes" / "lgvi"
    assert (installed / "__init__.py").is_file() and not list(installed.glob("*.zip"))


def test_a_fresh_comfyui_runs_the_demo_with_the_installed_pack(comfy, workspace, launched, tmp_path):
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(graph(launched)))
    for input_file in (ROOT / "lgvi_core" / "demo").glob("*.mp4"):
        shutil.copy(input_file, workspace / "input")
    options = ["--wait", "--timeout", "600"]
    said = comfy("--workspace", str(workspace), "run", "--workflow", str(file), *options, cwd=workspace, limit=900)
    (entry,) = requests.get(f"{launched.url}/history", timeout=60).json().values()
    assert entry["status"]["status_str"] == "success", said
    assert entry["outputs"]

"""The real page in Chromium, drawn by both of its renderers; a test that fails leaves a picture in out/browser."""

import os
import shutil
from importlib.metadata import version

import pytest
from host_server import ROOT

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
PICTURES = ROOT / "out" / "browser"
failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    item.stash[failed] = item.stash.get(failed, False) or report.failed
    return report


@pytest.fixture(scope="session")
def chromium():
    """Chromium without a window."""
    names = [os.environ.get("LGVI_CHROMIUM"), "chromium", "chromium-browser", "google-chrome"]
    program = next(filter(None, (shutil.which(name) for name in names if name)), None)
    if program is None:
        pytest.skip("no Chromium: install it (Debian: apt install chromium) or set LGVI_CHROMIUM to the program")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(params=["classic", "vue"])
def page(request, chromium, server):
    """ComfyUI's page, opened anew for each test, once with each renderer: see `page.ComfyPage`.

    Nothing but the server can be reached from it. An error that a script threw fails the test.
    """
    from page import ComfyPage

    vue = request.param == "vue"
    settings = {
        "Comfy.TutorialCompleted": True,
        "Comfy.InstalledVersion": version("comfyui_frontend_package"),
        "Comfy.VueNodes.Enabled": vue,
        "Comfy.Minimap.Visible": False,
        "Comfy.Workflow.Persist": False,
    }
    server.post("/api/settings", settings).raise_for_status()
    context = chromium.new_context(viewport={"width": 1600, "height": 900}, locale="en-US")
    context.route(lambda url: not url.startswith((server.url, "data:", "blob:")), lambda route: route.abort())
    context.set_default_timeout(60_000)  # milliseconds; a busy machine draws slowly
    page = ComfyPage(context.new_page(), server.url, vue)
    try:
        page.open()
        yield page
    finally:
        if request.node.stash.get(failed, True):
            PICTURES.mkdir(parents=True, exist_ok=True)
            name = request.node.name.replace("[", "-").replace("]", "").replace("/", "-")
            page.page.screenshot(path=PICTURES / f"{name}.png")
        context.close()
    assert page.errors == []

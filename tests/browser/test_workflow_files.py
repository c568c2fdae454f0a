"""The workflows of workflows/ on the real page: each loads whole, by dropping its file and from the templates."""

import json

import pytest
from host_server import PACK, ROOT
from playwright.sync_api import expect

CLIP = ROOT / "lgvi_core" / "demo" / "clip.mp4"
FILES = {path.stem: path for path in sorted((ROOT / "workflows").glob("*.json"))}
WANT_A_DOWNLOAD = {"sam3-mask": ("CheckpointLoaderSimple", "sam3.1_multiplex_fp16.safetensors")}
# What a node has chosen though it is not offered, the page draws red; a muted node that is folded shows nothing.
COMBOS = """() => app.graph._nodes.filter((node) => node.mode === 0 || !node.flags.collapsed)
  .flatMap((node) => (node.widgets ?? []).map((widget) => [node.type, widget]))
  .filter(([, widget]) => Array.isArray(widget.options?.values) && !widget.options.values.includes(widget.value))
  .map(([type, widget]) => [type, widget.value])"""


@pytest.fixture(autouse=True)
def clip(server):
    return server.add_input(CLIP)


def drop(page, name):
    """Drop a workflow's file and wait for its graph; the file's content."""
    workflow = json.loads(FILES[name].read_text("utf-8"))
    page.clear()
    page.drop(FILES[name])
    page.page.wait_for_function("(n) => window.app.graph._nodes.length === n", arg=len(workflow["nodes"]))
    page.idle()
    return workflow


def test_every_workflow_dropped_on_the_canvas_is_whole(page):
    for name in FILES:
        workflow = drop(page, name)
        shown = page.saved()
        for key in ("id", "type", "title", "mode", "properties", "widgets_values"):
            now, then = ([node.get(key) or None for node in one["nodes"]] for one in (shown, workflow))
            assert now == then, f"{name}: {key}"
        assert sorted(shown["links"]) == sorted(workflow["links"]), name
        now, then = ([group["title"] for group in one["groups"]] for one in (shown, workflow))
        assert now == then, name


def test_nothing_in_a_workflow_is_red_but_the_model_that_must_be_fetched(page):
    for name in FILES:
        drop(page, name)
        loader, file = WANT_A_DOWNLOAD.get(name, (None, None))
        if file:
            expect(page.page.get_by_test_id("error-overlay")).to_contain_text(f"{file} is missing")
        else:
            assert page.complaints() == "", name
        red = page.page.evaluate("() => app.graph._nodes.filter((node) => node.has_errors).map((node) => node.type)")
        assert red == ([loader] if file else []), name
        assert page.page.evaluate(COMBOS) == ([[loader, file]] if file else []), name


def test_the_demo_clip_dropped_on_load_video_is_what_a_workflow_lacks_at_first(page, server):
    (server.base / "input" / CLIP.name).unlink()
    page.open()
    drop(page, "remove-by-words")
    overlay = page.page.get_by_test_id("error-overlay")
    expect(overlay).to_contain_text("Load Video is missing a required media file")
    page.drop(CLIP, "video/mp4", at=page.in_node("LoadVideo", 160, 200))
    expect(overlay).to_be_hidden()
    assert page.widgets("LoadVideo")["file"] == CLIP.name
    assert (server.base / "input" / CLIP.name).read_bytes() == CLIP.read_bytes()


def test_the_templates_offer_every_workflow_with_its_picture_and_open_it(page):
    page.page.evaluate("() => { app.extensionManager.command.execute('Comfy.BrowseTemplates') }")
    dialog = page.page.get_by_role("dialog")
    dialog.get_by_text(PACK, exact=True).first.click()
    for name in FILES:
        card = dialog.get_by_test_id(f"template-workflow-{name}")
        card.scroll_into_view_if_needed()  # the page loads its picture only then
        picture = card.locator("img").first
        expect(picture).to_be_visible()
        page.page.wait_for_function("(image) => image.naturalWidth === 512", arg=picture.element_handle())
    dialog.get_by_test_id("template-workflow-remove-by-words").click()
    expect(dialog).to_be_hidden()
    page.page.wait_for_function("() => app.graph._nodes.some((node) => node.type === 'LGVIVideoInpaintSampler')")
    page.idle()
    assert page.complaints() == ""

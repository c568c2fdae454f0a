"""Our nodes in the hands of a user on the real page: change, run, compare, draw, save, reload, ask for help."""

import json
import re

import pytest
from host_server import ROOT, Client
from playwright.sync_api import expect

SAMPLER, PREVIEW, REQUEST = "LGVIVideoInpaintSampler", "LGVIMaskDecoderPreview", "LGVIRequestToPrompt"
FRAMES, RATE = 72, 24
SHOWN = """(test_id) => { const video = document.querySelector(`[data-testid=${test_id}]`)
  return video && !video.error && video.videoWidth > 0 && video.readyState >= 2 && !video.seeking }"""
# Share of the picture in which two videos differ by more than a tenth.
DIFFERENCE = """(test_ids) => { const pixels = test_ids.map((id) => { const canvas = document.createElement("canvas")
    const context = ((canvas.width = canvas.height = 64), canvas.getContext("2d"))
    context.drawImage(document.querySelector(`[data-testid=${id}]`), 0, 0, 64, 64)
    return context.getImageData(0, 0, 64, 64).data })
  return pixels[0].filter((value, i) => Math.abs(value - pixels[1][i]) > 25).length / pixels[0].length }"""


@pytest.fixture(autouse=True)
def clip(server):
    return server.add_input(ROOT / "lgvi_core" / "demo" / "clip.mp4")


@pytest.fixture
def shipped(page):
    """`shipped(name)` loads one of workflows/."""
    return lambda name: page.load(json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8")))


def wait_for_videos(page, *test_ids):
    for test_id in test_ids:
        page.page.wait_for_function(SHOWN, arg=test_id)


def wait_for_frame(page):
    """Until the first frame of the clip lies under the drawing, which then has its shape."""
    expect(page.page.get_by_test_id("lgvi-region").locator(".lgvi-media:not([hidden])")).to_be_visible()
    page.idle()


def click_at(page, test_id, share):
    """Click on a slider at a share of its width."""
    box = page.page.get_by_test_id(test_id).bounding_box()
    page.page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)


def drag(page, test_id, start, end):
    """Drag from one point of an element to another, each (x, y) in shares of its size."""
    box = page.page.get_by_test_id(test_id).bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.page.mouse.move(*points[0])
    page.page.mouse.down()
    page.page.mouse.move(*points[1], steps=5)
    page.page.mouse.up()


def ran(server, detail):
    """The inputs of each node of the prompt that ended, by the node's type."""
    client = Client(server)
    graph = client.history(detail["prompt_id"])["prompt"][2]
    client.close()
    return {node["class_type"]: node["inputs"] for node in graph.values()}


def region_of(page, which):
    text = page.widgets(which)["region"]
    return json.loads(text) if text else {}


def test_the_sampler_shows_before_and_after_with_a_handle_and_frames(page, shipped):
    shipped("remove-by-words")
    expect(page.page.get_by_test_id("lgvi-compare-message")).to_contain_text("Run to compare")
    page.run()
    wait_for_videos(page, "lgvi-compare-before", "lgvi-compare-after")
    assert page.page.evaluate(DIFFERENCE, ["lgvi-compare-before", "lgvi-compare-after"]) > 0.01
    after = page.page.get_by_test_id("lgvi-compare-after")
    for share in (0.25, 0.75):
        click_at(page, "lgvi-compare-slider", share)
        wipe = float(page.page.get_by_test_id("lgvi-compare-slider").input_value())
        assert wipe == pytest.approx(100 * share, abs=10)
        assert f"{wipe:g}%" in after.evaluate("(video) => getComputedStyle(video).clipPath")
    click_at(page, "lgvi-scrubber", 0.5)
    wait_for_videos(page, "lgvi-compare-before", "lgvi-compare-after")
    frame, count = map(int, page.page.get_by_test_id("lgvi-frame").inner_text().split(" / "))
    assert count == FRAMES and 30 < frame < 42
    for video in (page.page.get_by_test_id("lgvi-compare-before"), after):
        assert video.evaluate("(video) => video.currentTime") * RATE == pytest.approx(frame - 0.5, abs=0.1)


def test_the_preview_shows_what_would_be_removed(page, shipped):
    shipped("preview-edit-remove")
    page.run()
    wait_for_videos(page, "lgvi-mask-video", "lgvi-compare-before")
    share = page.page.evaluate(DIFFERENCE, ["lgvi-mask-video", "lgvi-compare-before"])
    assert share > 0.01
    area = page.page.get_by_test_id("lgvi-mask-area").inner_text()
    assert 1 < float(re.fullmatch(r"area ([\d.]+) %", area).group(1)) < 50


def test_a_request_that_is_typed_is_answered_in_a_chat(page):
    page.clear()
    page.add("MLLM Request", "MLLM Request→Prompt", at=(700, 150))
    page.text_widget(REQUEST, "request").fill("could you delete the dog on the left, please?")
    page.run()
    turns = page.page.get_by_test_id("lgvi-chat-turn")
    expect(turns).to_have_count(2)
    expect(turns.first).to_contain_text("could you delete the dog on the left, please?")
    expect(page.page.get_by_test_id("lgvi-chat-outcome")).to_have_text("Prompt: remove the dog on the left")
    page.text_widget(REQUEST, "request").fill("I wish it were quieter here")
    page.run()
    expect(page.page.get_by_test_id("lgvi-chat-outcome")).to_contain_text("not met")


def test_a_region_is_drawn_on_the_first_frame_undone_and_cleared(page, shipped):
    for workflow, which in (("interactive-request", REQUEST), ("preview-edit-remove", PREVIEW)):
        shipped(workflow)
        wait_for_frame(page)
        drag(page, "lgvi-region-canvas", (0.2, 0.3), (0.6, 0.8))
        assert region_of(page, which)["box"] == pytest.approx([0.2, 0.3, 0.4, 0.5], abs=0.02)
        page.page.get_by_test_id("lgvi-region-stroke").click()
        drag(page, "lgvi-region-canvas", (0.5, 0.1), (0.9, 0.1))
        (stroke,) = region_of(page, which)["strokes"]
        assert stroke["points"][0] == pytest.approx([0.5, 0.1], abs=0.02)
        assert stroke["points"][-1] == pytest.approx([0.9, 0.1], abs=0.02)
        page.page.get_by_test_id("lgvi-region-undo").click()
        assert region_of(page, which).keys() == {"box"}
        page.page.get_by_test_id("lgvi-region-clear").click()
        assert region_of(page, which) == {}


def test_what_was_set_and_drawn_runs_and_is_there_after_saving_and_reloading(page, shipped, server):
    shipped("preview-edit-remove")
    page.text_widget("PrimitiveStringMultiline", "value").fill("remove the yellow diamond")
    page.set_widget(SAMPLER, "preset", "custom")
    page.set_widget(SAMPLER, "preset.steps", 2)
    page.set_widget(SAMPLER, "window", 36)
    wait_for_frame(page)
    drag(page, "lgvi-region-canvas", (0.4, 0.4), (0.9, 0.9))
    expected = {which: page.widgets(which) for which in (SAMPLER, PREVIEW, "PrimitiveStringMultiline")}
    inputs = ran(server, page.run())
    assert inputs["PrimitiveStringMultiline"]["value"] == "remove the yellow diamond"
    assert inputs[SAMPLER]["preset"] == "custom" and inputs[SAMPLER]["preset.steps"] == 2
    assert json.loads(inputs[PREVIEW]["region"]) == region_of(page, PREVIEW) != {}

    name = f"mine {'vue' if page.vue else 'classic'}"
    page.save(name)
    page.open()
    page.drop(server.base / "user" / "default" / "workflows" / f"{name}.json")
    page.page.wait_for_function("(type) => app.graph._nodes.some((node) => node.type === type)", arg=SAMPLER)
    page.idle()
    assert page.complaints() == ""
    assert {which: page.widgets(which) for which in expected} == expected
    expect(page.page.get_by_test_id("lgvi-region-status")).to_contain_text("a box")


def test_a_mistake_is_shown_on_the_page_and_the_next_run_works(page, shipped):
    shipped("remove-by-words")
    page.text_widget(SAMPLER, "prompt").fill(" ")
    page.run(expect="execution_error")
    page.page.get_by_test_id("error-overlay-see-errors").click()
    expect(page.page.get_by_test_id("properties-panel")).to_contain_text("the prompt is empty")
    page.text_widget(SAMPLER, "prompt").fill("remove the red circle on the left")
    page.run()
    wait_for_videos(page, "lgvi-compare-after")


def test_the_help_page_of_a_node_opens(page, shipped):
    shipped("remove-by-words")
    page.page.mouse.click(*page.in_node(SAMPLER, 150, -15))
    page.page.get_by_test_id("info-button").click()
    expect(page.page.get_by_text("Removes from a video what the words name (an LGVI model)")).to_be_visible()
    picture = page.page.locator(f"img[src*='{SAMPLER}/node.png']")
    expect(picture).to_have_count(1)
    page.page.wait_for_function("(image) => image.naturalWidth > 100", arg=picture.element_handle())

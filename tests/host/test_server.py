"""What the real server knows of the pack: its nodes, their documentation, its web files, and that they run."""

import json
import re

import pytest
from host_server import PACK, ROOT

NODES = {
    "LGVILoader": "Load LGVI",
    "LGVIRequestToPrompt": "MLLM Request→Prompt",
    "LGVIVideoInpaintSampler": "Video Inpaint Sampler",
    "LGVIMaskDecoderPreview": "Mask Decoder Preview",
    "LGVIConditionEncode": "LGVI Condition Encode",
    "LGVIGuider": "LGVI Three-Way Guider",
    "LGVISampler": "LGVI Sampler (DDIM)",
    "LGVITaskVectorMerge": "Task-Vector LoRA Merge",
    "LGVIMaskShape": "Mask Shape",
    "LGVIPickFrames": "Pick Frames",
    "LGVIKeyframePropagate": "Keyframe Propagate",
    "LGVIRequestReaderLoader": "Load Request Reader",
}
WORKFLOWS = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))


@pytest.fixture(scope="module")
def nodes(server):
    return server.nodes()


def inputs(node):
    """All inputs of a node by name: those that hang on a choice too."""
    found = {}
    for name, (kind, options) in (node["input"].get("required", {}) | node["input"].get("optional", {})).items():
        found[name] = kind, options
        for choice in options["options"] if kind == "COMFY_DYNAMICCOMBO_V3" else []:
            found |= inputs({"input": choice["inputs"]})
    return found


def graph(server, class_type, **values):
    """A prompt of one node at its defaults, but for `values`, whose first output is looked at."""
    return {"1": server.node(class_type, **values), "2": server.node("PreviewAny", source=["1", 0])}


def test_the_pack_has_the_nodes_that_shared_workflows_name(nodes):
    assert {name: node["display_name"] for name, node in nodes.items()} == NODES


def test_every_node_is_found_in_one_category_and_by_other_words(nodes):
    for name, node in nodes.items():
        assert node["category"] == "lgvi", name
        assert node["search_aliases"], f"{name} has no search aliases"
        assert node["description"], f"{name} has no description"


def test_every_input_and_output_has_a_tooltip(nodes):
    for name, node in nodes.items():
        for key, (_, options) in inputs(node).items():
            assert options.get("tooltip"), f"{name}.{key} has no tooltip"
        assert all(node["output_tooltips"]), f"an output of {name} has no tooltip: {node['output_tooltips']}"


def test_every_number_has_limits(nodes):
    for name, node in nodes.items():
        for key, (kind, options) in inputs(node).items():
            if kind in ("INT", "FLOAT"):
                assert {"min", "max"} <= options.keys(), f"{name}.{key} has no limits"


def test_every_node_has_a_help_page_whose_pictures_are_served(server, nodes):
    docs = f"/extensions/{PACK}/docs"  # what the page takes a picture's path relative to
    for name, node in nodes.items():
        text = server.get(f"{docs}/{name}/en.md").content.decode()
        assert node["display_name"] in text.splitlines()[0], f"the help page of {name} has another title"
        pictures = re.findall(r"!\[[^\]]*\]\((.+?)\)", text)
        assert pictures, f"the help page of {name} has no picture"
        for picture in pictures:
            assert server.get(f"{docs}/{picture}").headers["content-type"].startswith("image/"), picture


def test_web_files_are_served_and_named_to_the_page_once(server):
    scripts = [url for url in server.get("/extensions").json() if url.startswith(f"/extensions/{PACK}/")]
    on_disk = {f"/extensions/{PACK}/{path.relative_to(ROOT / 'js').as_posix()}" for path in (ROOT / "js").rglob("*.js")}
    assert sorted(scripts) == sorted(on_disk) and on_disk
    for url in scripts:
        assert "javascript" in server.get(url).headers["content-type"]


def test_locales_name_every_node(server, nodes):
    english = server.get("/i18n").json()["en"]["nodeDefs"]
    for name, node in nodes.items():
        assert english[name]["display_name"] == node["display_name"]
        unknown = english[name].get("inputs", {}).keys() - inputs(node).keys()
        assert not unknown, f"locales/en names inputs that {name} does not have: {unknown}"


def test_workflows_are_among_the_templates_with_their_thumbnails(server):
    assert WORKFLOWS, "the pack ships no workflows"
    assert sorted(server.get("/api/workflow_templates").json()[PACK]) == WORKFLOWS
    for name in WORKFLOWS:
        served = server.get(f"/api/workflow_templates/{PACK}/{name}.json").json()
        assert served == json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))
        thumbnail = server.get(f"/api/workflow_templates/{PACK}/{name}.jpg")
        assert thumbnail.headers["content-type"] == "image/jpeg" and thumbnail.content[:2] == b"\xff\xd8"


def test_loader_loads_the_demo_checkpoint_by_default_and_only_once(server, client):
    client.run(graph(server, "LGVILoader"))
    again = client.run(graph(server, "LGVILoader"))
    assert again.cached == {"1", "2"} and again.ran == []


@pytest.mark.parametrize("key, value", [("checkpoint", "gone.safetensors"), ("weight_dtype", "float13")])
def test_a_value_that_is_not_offered_is_refused_on_its_node(server, client, key, value):
    refused = client.refusal(graph(server, "LGVILoader", **{key: value}))["node_errors"]["1"]
    assert refused["class_type"] == "LGVILoader"
    (error,) = refused["errors"]
    assert value in error["details"] and key in (error["details"], error["extra_info"]["input_name"])
    client.run(graph(server, "LGVILoader"))  # the next run works


def test_a_number_beyond_its_limits_is_refused_on_its_node(server, client, nodes):
    numbers = [
        (name, key, options["min"])
        for name, node in nodes.items()
        for key, (kind, options) in node["input"]["required"].items()
        if kind in ("INT", "FLOAT")
    ]
    assert numbers
    for name, key, least in numbers:
        refused = client.refusal(graph(server, name, **{key: least - 1}))["node_errors"]["1"]["errors"]
        assert ("value_smaller_than_min", key) in [(e["type"], e["extra_info"].get("input_name")) for e in refused]

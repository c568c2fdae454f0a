"""MLLM Request→Prompt: by rules, with the host's own text-generation models, with regions, and on the real server.

Most tests run the node in this process, on ComfyUI's own modules. A language model that understands anything is too
large to have here: what a model would say is given by a CLIP that says it, and that the call fits the host is shown
with core's Qwen3-VL at a tiny size, whose weights make it say one sentence.
"""

import importlib
import json
import re
import sys
from fractions import Fraction
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from talking import write_talking

from lgvi_core import checkpoints
from lgvi_core.inpaint import DEMO

ROOT = Path(__file__).parents[2]
DEFAULTS = {"history": "", "region": "", "shown_frames": 1, "max_tokens": 64, "temperature": 0.2, "seed": 0}
SAID = "Sure.{{prompt}}remove the brown dog"  # no token of it comes twice


@pytest.fixture(scope="module")
def host(comfyui, tmp_path_factory):
    """ComfyUI's modules and the pack in this process: `node`, and `module(name)` of the pack."""
    sys.path.insert(0, str(comfyui))
    try:
        from comfy.cli_args import args

        args.cpu = True
        import folder_paths

        folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
        spec = spec_from_file_location("lgvi_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
        sys.modules["lgvi_pack"] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules["lgvi_pack"])

        def module(name):
            return importlib.import_module(f"lgvi_pack.{name}")

        node = module("nodes.request_to_prompt").RequestToPrompt
        yield SimpleNamespace(node=node, module=module, temp=Path(folder_paths.get_temp_directory()))
    finally:
        sys.path.remove(str(comfyui))


@pytest.fixture
def ask(host):
    """Runs the node; its outputs by name, and `chat`, what the page gets."""

    def run(request, **inputs):
        output = host.node.execute(request=request, **DEFAULTS | inputs)
        names = ("prompt", "response", "box", "mask", "met", "history")
        return SimpleNamespace(**dict(zip(names, output.args)), chat=output.ui["lgvi_chat"][0])

    return run


class Talker:
    """A CLIP that says what it is given to say and remembers what it was asked."""

    class Network(torch.nn.Module):
        def generate(self):
            raise AssertionError("only the CLIP's own generate is called")

    def __init__(self, says):
        self.says, self.cond_stage_model = says, self.Network()

    def tokenize(self, text, image=None, images=(), **options):
        self.text, self.image, self.options = text, image, options
        return {"tokens": text}

    def generate(self, tokens, **sampling):
        self.sampling = sampling
        return [tokens]

    def decode(self, ids):
        assert ids == [{"tokens": self.text}]
        return self.says


@pytest.fixture(scope="module")
def tiny_qwen(host):
    """Core's Qwen3-VL as the host builds it, two layers wide 64, with weights that make it say `SAID`."""
    import comfy.sd
    from comfy.text_encoders import qwen3vl

    name = "qwen3vl_8b"
    with pytest.MonkeyPatch.context() as patch:
        vision = {"hidden_size": 32, "intermediate_size": 64, "depth": 2, "deepstack_visual_indexes": [0]}
        patch.setitem(qwen3vl.QWEN3VL_VISION, name, vision)
        patch.setitem(qwen3vl.QWEN3VL_VISION_COMMON, "num_heads", 2)
        text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                "num_key_value_heads": 1}  # fmt: skip
        parts = SimpleNamespace(params={}, clip=qwen3vl.te(model_type=name), tokenizer=qwen3vl.tokenizer(name))
        clip = comfy.sd.CLIP(parts, model_options={f"{name}_model_config": text})
    tokenizer = getattr(clip.tokenizer, name).tokenizer
    start, end = tokenizer("\n\n")["input_ids"], 151645
    chain = [*start, *tokenizer(SAID)["input_ids"], end]
    assert len(set(chain)) == len(chain) <= 64
    torch.manual_seed(0)
    with torch.no_grad():
        for key, value in clip.cond_stage_model.named_parameters():
            value.normal_(std=0.02) if ".visual." in key else value.fill_(float("norm" in key))
        model = getattr(clip.cond_stage_model, name).transformer.model
        for place, (token, following) in enumerate(zip(chain, chain[1:])):
            model.embed_tokens.weight[token, place] = model.lm_head.weight[following, place] = 8
    return clip


def frames(count=3, height=48, width=64, seed=0):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def square(height=48, width=64, count=1):
    mask = torch.zeros(count, height, width)
    mask[:, 8:16, 20:30] = 1
    return mask


# By rules


def test_a_direct_request_becomes_a_prompt_without_a_model(ask):
    answer = ask("Could you please delete the dog on the left? Thanks 🙂")
    assert answer.prompt == "remove the dog on the left" and answer.met is True
    assert answer.response == "I will remove the dog on the left."
    assert answer.mask.shape == (1, 64, 64) and not answer.mask.any()
    assert answer.chat == {
        "turns": [
            {"role": "user", "text": "Could you please delete the dog on the left? Thanks 🙂"},
            {"role": "assistant", "text": "I will remove the dog on the left."},
        ],
        "prompt": "remove the dog on the left",
        "met": True,
        "first_frame": None,
    }


@pytest.mark.parametrize("request_", ["", "make it nicer", "which dog is it?", "remove this", "移除狗", "word " * 5000])
def test_what_cannot_be_met_has_an_answer_and_nothing_to_remove(ask, request_):
    answer = ask(request_, image=frames(2))
    assert answer.prompt == "" and answer.met is False and answer.response
    assert answer.mask.shape == (2, 48, 64) and not answer.mask.any()
    assert answer.box == {"x": 0, "y": 0, "width": 64, "height": 48}


def test_history_goes_from_node_to_node(ask):
    first = ask("remove the circle on the left")
    second = ask("and the other one", history=first.history)
    third = ask("great, and the dog too", history=second.history)
    assert [second.prompt, third.prompt] == ["remove the circle on the right", "remove the dog"]
    assert [turn["role"] for turn in third.chat["turns"]] == ["user", "assistant"] * 3
    assert "{{" not in json.dumps(third.chat) and third.history.count("{{prompt}}") == 3


def test_history_may_be_written_by_hand(ask):
    history = "User: remove the dog\nAssistant: There are two dogs. Which one?"
    assert ask("the one on the left", history=history).prompt == "remove the dog on the left"
    offer = {"role": "assistant", "content": "Shall I remove the bus?"}
    turns = json.dumps([{"role": "user", "content": "the bus is ugly"}, offer])
    assert ask("yes", history=turns).prompt == "remove the bus"


# Regions


def test_a_marked_region_says_what_this_is(ask):
    answer = ask("remove this", image=frames(), mask=square())
    assert answer.prompt == "remove the object" and "marked region" in answer.response
    assert torch.equal(answer.mask, square(count=3)) and answer.mask.dtype == torch.float32
    assert answer.box == {"x": 20, "y": 8, "width": 10, "height": 8}


def test_box_mask_and_drawing_are_one_region(ask):
    drawn = json.dumps({"box": [0, 0, 0.125, 0.125], "strokes": [{"width": 0.2, "points": [[0.8, 0.8]]}]})
    box = {"x": 40, "y": 2, "width": 3, "height": 4}
    answer = ask("remove the dog", image=frames(), mask=square(), region=drawn, bounding_box=box)
    assert (answer.mask[:, :6, :8] == 1).all() and (answer.mask[:, 2:6, 40:43] == 1).all()
    assert (answer.mask[:, 8:16, 20:30] == 1).all() and answer.mask[0, 38, 51] == 1
    assert answer.mask.mean() < 0.15
    assert answer.box["x"] == 0 and answer.box["y"] == 0


def test_the_box_can_be_used_by_cores_nodes(ask):
    from comfy_extras.nodes_images import ImageCropV2
    from comfy_extras.nodes_rtdetr import DrawBBoxes

    video = frames()
    for inputs, size in [({"mask": square()}, (3, 8, 10, 3)), ({}, (3, 48, 64, 3))]:
        box = ask("remove the dog", image=video, **inputs).box
        assert ImageCropV2.execute(video, box).args[0].shape == size
        assert DrawBBoxes.execute(bboxes=box, image=video).args[0].shape == video.shape


def test_a_mask_per_frame_and_boxes_per_frame_stay_per_frame(ask):
    mask = torch.zeros(3, 48, 64)
    mask[2, 40:, 60:] = 0.5
    boxes = [[{"x": i, "y": 0, "width": 1, "height": 1}] for i in range(3)]
    answer = ask("remove the dog", image=frames(), mask=mask, bounding_box=boxes)
    assert [np.flatnonzero(frame[0]).tolist() for frame in answer.mask.numpy()] == [[0], [1], [2]]
    assert answer.mask[2, 40:, 60:].unique().tolist() == [0.5] and not answer.mask[:2, 40:].any()


def test_a_mask_alone_gives_the_size(ask):
    answer = ask("remove this", mask=square(20, 40, 2))
    assert torch.equal(answer.mask, square(20, 40, 2)) and answer.met


@pytest.mark.parametrize("inputs, message", [
    ({"region": '{"box": [0, 0, 1, 1]}'}, "connect the frames to image"),
    ({"bounding_box": {"x": 0, "y": 0, "width": 9, "height": 9}}, "connect the frames to image"),
    ({"image": True, "region": "a box"}, "not JSON"),
    ({"image": True, "region": '{"box": [10, 10, 100, 100]}'}, "not pixels"),
    ({"image": True, "mask": torch.zeros(1, 64, 64)}, "mask is 64x64 pixels but the video is 64x48"),
    ({"image": True, "mask": torch.zeros(2, 48, 64)}, "mask has 2 frames but the video has 3"),
    ({"image": True, "mask": torch.zeros(7)}, "mask has shape"),
    ({"mask": torch.zeros(7)}, "mask has shape"),
    ({"image": True, "bounding_box": {"x": 900, "y": 0, "width": 9, "height": 9}}, "covers nothing"),
    ({"image": True, "bounding_box": [[], []]}, "for 2 frames but 3"),
    ({"image": torch.full((1, 8, 8, 3), float("nan"))}, "no numbers"),
    ({"image": torch.zeros(0, 8, 8, 3)}, "at least one frame"),
    ({"image": torch.zeros(1, 3, 4, 8, 8)}, "frames, height, width"),
    ({"history": "remove the dog"}, "which nobody says"),
])  # fmt: skip
def test_sockets_with_the_wrong_content_are_named(ask, inputs, message):
    inputs = {**inputs, "image": frames()} if inputs.get("image") is True else inputs
    with pytest.raises(ValueError, match=message):
        ask("remove the dog", **inputs)


def test_a_video_is_as_good_as_its_frames(ask):
    from comfy_api.latest import InputImpl, Types

    video = InputImpl.VideoFromComponents(Types.VideoComponents(images=frames(), frame_rate=Fraction(30)))
    clip = Talker("Gone. {{prompt}}remove the dog{{/prompt}}")
    answer = ask("the dog bores me", clip=clip, image=video, mask=square())
    assert torch.equal(answer.mask, square(count=3)) and torch.equal(clip.image, frames()[:1])


def test_one_tiny_frame_with_alpha_is_enough(ask):
    answer = ask("remove this", image=torch.rand(1, 10, 10, 4), region='{"box": [0.5, 0.5, 0.5, 0.5]}')
    assert answer.mask.sum() == 25 and answer.chat["first_frame"]


def test_the_page_gets_the_first_frame_as_a_picture(ask, host):
    video = frames(2, 90, 160)
    file = ask("remove the dog", image=video).chat["first_frame"]
    assert file["type"] == "temp" and file.keys() == {"filename", "subfolder", "type"}
    picture = np.asarray(Image.open(host.temp / file["subfolder"] / file["filename"])) / 255
    np.testing.assert_allclose(picture, video[0].numpy(), atol=1 / 255 + 1e-6)
    large = ask("remove the dog", image=frames(1, 1000, 2000)).chat["first_frame"]
    assert Image.open(host.temp / large["subfolder"] / large["filename"]).size == (768, 384)


# With a model


def test_what_a_model_says_is_the_answer(ask):
    clip = Talker("The brown one then.\n{{prompt}}Remove the brown dog.{{/prompt}}")
    answer = ask("I like the white dog better", clip=clip, image=frames(), temperature=0.5, seed=7, max_tokens=99)
    assert (answer.prompt, answer.response, answer.met) == ("remove the brown dog", "The brown one then.", True)
    assert "User: I like the white dog better" in clip.text
    assert clip.sampling == {"do_sample": True, "temperature": 0.5, "seed": 7, "max_length": 99}
    assert torch.equal(clip.image, frames()[:1])


def test_a_model_that_asks_back_leaves_nothing_to_remove(ask):
    answer = ask("remove the dog", clip=Talker("Which of the two dogs?"), image=frames(), mask=square())
    assert (answer.prompt, answer.response, answer.met) == ("", "Which of the two dogs?", False)
    assert not answer.mask.any()


@pytest.mark.parametrize("said", ["", "\n", "<think>on and on", "{{prompt}}", "}}{{", '{"prompt": 3}', "🐕" * 10_000])
def test_whatever_a_model_writes_is_answered(ask, said):
    answer = ask("remove the dog", clip=Talker(said))
    assert not answer.met and answer.prompt == "" and answer.response.strip()


def test_an_empty_request_does_not_bother_the_model(ask):
    answer = ask("  \n", clip=Talker("{{prompt}}remove everything{{/prompt}}"))
    assert not answer.met and "Tell me what to remove" in answer.response


def test_a_region_that_the_model_names_is_used_unless_the_user_marked_one(ask):
    clip = Talker("Gone. <Instruction>remove the dog</Instruction><Region>(0.5, 0.5, 1, 1)</Region>")
    answer = ask("the dog bores me", clip=clip, image=frames())
    assert answer.box == {"x": 32, "y": 24, "width": 32, "height": 24}
    assert (answer.mask[:, 24:, 32:] == 1).all() and answer.mask.mean() == 0.25
    marked = ask("the dog bores me", clip=clip, image=frames(), mask=square())
    assert torch.equal(marked.mask, square(count=3))
    assert "from 31% to 47% of its width" in clip.text
    assert not ask("the dog bores me", clip=clip).mask.any()  # no frames, no place in them


def test_the_model_is_told_the_conversation(ask):
    clip = Talker("Which one?")
    ask("and the other one", clip=clip, history=ask("remove the dog on the left").history)
    assert "User: remove the dog on the left\nAssistant: I will remove" in clip.text
    assert "not to be asked for again: remove the dog on the left." in clip.text


def test_more_frames_are_spread_over_the_clip(ask):
    clip, video = Talker("Which one?"), frames(10)
    for shown, places in [(1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (16, list(range(10)))]:
        ask("remove the dog", clip=clip, image=video, shown_frames=shown)
        assert torch.equal(clip.image, video[places])


def test_temperature_zero_takes_the_likeliest_words(ask):
    clip = Talker("Which one?")
    ask("remove the dog", clip=clip, temperature=0.0)
    assert clip.sampling["do_sample"] is False


def test_cores_language_model_is_called_as_the_host_means_it(ask, tiny_qwen):
    answer = ask("the brown dog bores me", clip=tiny_qwen, image=frames())
    assert (answer.prompt, answer.response) == ("remove the brown dog", "Sure.")
    assert ask("the brown dog bores me", clip=tiny_qwen, temperature=0.0).prompt == "remove the brown dog"


def test_cores_language_model_sees_the_frames(ask, tiny_qwen):
    seen = []
    visual = tiny_qwen.cond_stage_model.qwen3vl_8b.transformer.visual
    handle = visual.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[0]))
    ask("remove the dog", clip=tiny_qwen)
    assert seen == []
    ask("remove the dog", clip=tiny_qwen, image=frames(5), shown_frames=3)
    handle.remove()
    assert len(seen) == 3 and all(seen)


def test_an_answer_that_is_cut_off_is_still_read(ask, tiny_qwen):
    answer = ask("the brown dog bores me", clip=tiny_qwen, max_tokens=2)
    assert not answer.met and answer.response.startswith("Sure")


def test_every_tokenizer_of_cores_vision_models_takes_our_pictures(host):
    from comfy.text_encoders import qwen3vl, qwen35, qwen_image

    generate = host.module("nodes.request_to_prompt")._generate
    for make in (qwen3vl.tokenizer("qwen3vl_4b"), qwen35.tokenizer("qwen35_2b"), qwen_image.QwenImageTokenizer):
        clip, tokenizer = Talker("fine"), make()
        clip.tokenize = tokenizer.tokenize_with_weights
        clip.generate = lambda tokens, **sampling: tokens
        clip.decode = lambda tokens: next(iter(tokens.values()))[0]
        tokens = generate(clip, "remove (the) dog :)", frames(1), 64, 0.2, 0)
        pictures = [token for token, *_ in tokens if isinstance(token, dict)]
        assert len(pictures) == 1 and torch.equal(pictures[0]["data"], frames(1))


def test_a_clip_that_only_encodes_says_what_to_connect(ask, host):
    loader = host.module("nodes.loader").LoadLGVI
    _, clip, _ = loader.execute(checkpoint=host.module("nodes.loader").DEMO, weight_dtype="default").args
    with pytest.raises(ValueError, match="cannot write any: connect a text-generation model such as Qwen-VL"):
        ask("remove the dog", clip=clip)
    assert ask("", clip=clip).met is False


# On the server


def test_the_server_runs_a_conversation_and_hands_the_prompt_on(server, client):
    graph = {
        "1": server.node("LGVIRequestToPrompt", request="please erase the disc on the left, thanks"),
        "2": server.node("LGVIRequestToPrompt", request="and the other one", history=["1", 5]),
        "3": server.node("PreviewAny", source=["2", 0]),
        "4": server.node("MaskToImage", mask=["2", 3]),
        "5": server.node("PreviewImage", images=["4", 0]),
    }
    run = client.run(graph)
    assert run.outputs["3"]["text"] == ["remove the disc on the right"]
    (chat,) = run.outputs["2"]["lgvi_chat"]
    assert chat["met"] is True and [turn["role"] for turn in chat["turns"]] == ["user", "assistant"] * 2
    assert len(run.outputs["5"]["images"]) == 1


@pytest.fixture(scope="module")
def reader(server):
    """The name of a reader of the demo model, which says that it removes a red circle."""
    unet = checkpoints.load(DEMO).unet
    folder = server.base / "models" / "lgvi"
    folder.mkdir(exist_ok=True)
    said = ["Gladly. ", "{{prompt}}", "remove the red circle", "{{/prompt}}"]
    file = write_talking(folder / "talks.safetensors", said, unet, unet.config.cross_attention_dim)
    yield file.name
    file.unlink()


def conversation(server, reader, color, **request):
    """A graph whose reader steers Video Inpaint Sampler on a few frames of this colour."""
    return {
        "frames": server.node("EmptyImage", width=64, height=64, batch_size=3, color=color),
        "model": server.node("LGVILoader"),
        "reader": server.node("LGVIRequestReaderLoader", reader=reader),
        "ask": server.node("LGVIRequestToPrompt", clip=["reader", 0], image=["frames", 0], **request),
        "sample": server.node(
            "LGVIVideoInpaintSampler", model=["model", 0], vae=["model", 2], video=["frames", 0], positive=["ask", 6]
        ),
    }


def test_the_server_lets_a_reader_steer_and_does_not_ask_it_twice(server, client, reader):
    graph = conversation(server, reader, 0x336699, request="I only want the blue one")
    run = client.run(graph)
    (chat,) = run.outputs["ask"]["lgvi_chat"]
    assert (chat["met"], chat["prompt"], chat["turns"][-1]["text"]) == (True, "remove the red circle", "Gladly.")
    assert run.outputs["sample"]["lgvi_compare"][0]["frames"] == 3
    graph["sample"]["inputs"]["seed"] = 5
    assert client.run(graph).ran == ["sample"]


def test_the_server_gives_the_video_back_where_a_request_is_not_met(server, client, reader):
    graph = conversation(server, reader, 0x336698, request=" ")
    (shown,) = client.run(graph).outputs["sample"]["lgvi_compare"]
    assert shown["message"].endswith("the video comes back unchanged") and shown["after"] == shown["before"]


def test_the_server_says_that_words_alone_have_no_conditioning(server, client, reader):
    graph = conversation(server, reader, 0x336697, request="remove the red circle")
    del graph["ask"]["inputs"]["clip"], graph["reader"]
    run = client.run(graph, expect="error")
    assert run.error["node_id"] == "sample" and "connect the prompt" in run.error["exception_message"]
    graph["sample"]["inputs"] |= {"prompt": ["ask", 0], "clip": ["model", 1]}
    del graph["sample"]["inputs"]["positive"]
    client.run(graph)


def test_the_server_names_the_node_whose_region_is_wrong_and_runs_the_next(server, client):
    node = server.node("LGVIRequestToPrompt", request="remove this", region="scribble")
    error = client.run({"1": node}, expect="error").error
    assert error["node_type"] == "LGVIRequestToPrompt" and re.search("not JSON", error["exception_message"])
    run = client.run({"1": server.node("LGVIRequestToPrompt", request="remove the (dog) 🐕")})
    assert run.outputs["1"]["lgvi_chat"][0]["prompt"] == "remove the dog"

"""A reader end to end: its states steer the sampler as on the command line; what it cannot meet changes nothing."""

from unittest.mock import patch

import numpy as np
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from readers import ASKS, MET, REQUEST, ask, counting_answers, reader, reader_file
from small import FRAMES, HOST, checkpoint_file, clip_of, conditions, core, counting, loaded, ours, raises, sample
from videos import as_video, counting_everything, custom, noise, preview, progress_hook, reach, remove


def steered_by_lgvi_core(kind, frames):
    """The features that lgvi_core's reader gives for a request, and the video that they lead to."""
    understanding, checkpoints = ours("lgvi_core.understanding"), ours("lgvi_core.checkpoints")
    read = understanding.EndToEnd(checkpoints.load_request_encoder(reader_file(MET, kind)))
    understood = read(frames.numpy(), REQUEST)
    result = ours("lgvi_core.inpaint").inpaint(
        frames, understood.prompt, features=understood.features, checkpoint=checkpoint_file(kind), device="cpu", seed=3,
        window=6, overlap=2, steps=4, guidance_scale=3.0, image_guidance_scale=1.5, dilate=1.0,
    )  # fmt: skip
    return understood, result


def check_hidden_states_steer_as_on_the_command_line():
    frames = noise(9, 20, 24)
    for kind in ("sample", "epsilon"):
        parts, preset = loaded(kind), custom(4, 3.0, 1.5)
        understood, expected = steered_by_lgvi_core(kind, frames)
        prompt, response, _, _, met, history, conditioning = ask(reader(MET, kind), frames)
        assert (prompt, response, met) == ("remove the red circle", "Sure.", True)
        assert history == f"User: {REQUEST}\nAssistant: Sure.\n  {{{{prompt}}}}remove the red circle{{{{/prompt}}}}"
        assert torch.allclose(conditioning[0][0], understood.features, atol=1e-4)
        given = {"dilation": 1.0, "positive": conditioning, "prompt": ""}
        for clip in (parts.clip, None):  # zeros are the empty text either way
            (_, result, mask), ui = remove(parts, frames, preset, clip=clip, **given)
            assert ui["message"] == ""
            same = torch.from_numpy(expected.mask) == (mask > 0.5)
            assert same.float().mean() > 0.995, kind
            same = (reach(~same, 2) == 0).numpy()
            assert np.abs(result.numpy() - expected.frames)[same].max() < 1e-3, kind
        assert not torch.equal(remove(parts, frames, preset, dilation=1.0, prompt=prompt)[0][1], result)


def check_the_stages_one_by_one_take_the_states_too():
    conditioning = ask(reader(), clip_of())[6]
    parts, encode = loaded("epsilon"), ours("nodes.condition_encode").ConditionEncode
    given = encode.execute(parts.clip, parts.vae, clip_of(), "", positive=conditioning).result
    words, video, neither = (one[0][0] for one in given[:3])
    assert torch.equal(words, conditioning[0][0]) and not video.any() and not neither.any() and words.any()
    assert [list(one[0][1]) for one in given[1:3]] == [["concat_latent_image"], []]
    (zeros,) = core("nodes").ConditioningZeroOut().zero_out(conditioning)
    assert torch.equal(zeros[0][0], neither)
    by_states = sample(parts.model, given)
    assert by_states.isfinite().all() and len(by_states) == FRAMES
    assert not torch.allclose(by_states, sample(parts.model, conditions()), atol=1e-3)


def check_what_is_not_met_leaves_the_video_as_it_is_and_runs_nothing():
    parts, frames = loaded("epsilon"), noise()
    video = as_video(frames)
    prompt, response, _, _, met, _, conditioning = ask(reader(ASKS), video)
    assert (prompt, response, met) == ("", "There are two. Which one?", False)
    why = "the request is not met ('There are two. Which one?'): nothing is removed"
    hole = torch.ones(16, 16)
    with counting_everything(parts) as calls:
        for more in ({}, {"mask": hole}, {"keep_untouched": False}):
            (out, result, mask), ui = remove(parts, video, positive=conditioning, prompt="", **more)
            assert out is video and torch.equal(result, frames) and mask.shape == (9, 16, 16) and not mask.any()
            assert ui["message"] == f"{why}, the video comes back unchanged" and ui["after"] == ui["before"]
        (mask, soft, _, area), ui = preview(parts, frames, positive=conditioning, prompt="")
        assert not mask.any() and not soft.any() and area == 0 and ui["message"] == why
        encode = ours("nodes.condition_encode").ConditionEncode
        raises("the request is not met", encode.execute, parts.clip, parts.vae, frames, "", positive=conditioning)
        latent = {"samples": torch.zeros(6, 12, 8, 8)}
        raises("There is nothing to sample", sample, parts.model, (conditioning, conditioning, None, latent))
    assert not calls
    assert ask(reader(ASKS), video, request=" ")[6][0][1]["lgvi_unmet"].startswith("Tell me what to remove")


def check_states_mean_nothing_to_another_u_net():
    conditioning, message = ask(reader(), noise())[6], "trained with another U-Net than this MODEL"
    checkpoints, path = ours("lgvi_core.checkpoints"), HOST.work / "other-u-net.safetensors"
    changed = checkpoints.load(checkpoint_file("epsilon"))
    changed.unet.conv_out.weight += 0.1
    checkpoints.save(changed, path)
    other, fills = ours("nodes.host").load(path), loaded("fill")
    latent = {"samples": torch.zeros(6, 12, 8, 8)}
    with counting_everything(other) as calls, counting_everything(fills) as more_calls:
        raises(message, remove, other, noise(), positive=conditioning, prompt="")
        raises(message, preview, other, noise(), positive=conditioning, prompt="")
        raises(message, sample, other.model, (conditioning, conditioning, None, latent))
        raises(message, remove, fills, noise(), positive=conditioning, mask=torch.ones(16, 16))
    assert not calls and not more_calls


def check_words_alone_have_no_conditioning_and_say_what_to_connect():
    for one in (None, reader(MET, None)):
        prompt, *_, met, _, conditioning = ask(one, noise(), request="remove the red circle")
        assert met and prompt == "remove the red circle"
        assert isinstance(conditioning, ExecutionBlocker) and "connect the prompt" in conditioning.message


def check_the_same_request_and_frames_are_not_read_again():
    one, frames = reader(), noise()
    parts = loaded("epsilon")
    with counting_answers() as asked:
        first = ask(one, frames, seed=77)
        result = remove(parts, frames, positive=first[6], prompt="")[0][1]
        later = frames.clone()
        later[1:] = 0.5
        for same in (frames, frames.clone(), as_video(frames), later):
            again = ask(one, same, seed=77)
            assert again[0] == first[0] and again[6] is first[6]
        assert len(asked) == 1
        with counting(parts.model) as calls:
            assert torch.equal(remove(parts, frames.clone(), positive=again[6], prompt="")[0][1], result)
        assert not calls
        history = "User: no dog\nAssistant: I will."
        changes = {"request": "the other", "history": history, "seed": 78, "temperature": 0.5, "max_tokens": 9}
        for name, value in changes.items():
            ask(one, frames, **{"seed": 77, name: value})
        ask(one, 1 - frames, seed=77)
        ask(one, frames, seed=77)
        assert len(asked) == 1 + len(changes) + 1
        for seed in range(100, 108):
            ask(one, frames, seed=seed)
        ask(one, frames, seed=77)
        assert len(asked) == 1 + len(changes) + 1 + 9  # the eight last are kept


def check_progress_is_shown_token_by_token_and_cancel_works_in_the_middle():
    management, one, seen, calls = core("comfy.model_management"), reader(), [], []

    def stop(*_):
        calls.append(None)
        if len(calls) == 3:
            management.interrupt_current_processing(True)

    with progress_hook(lambda value, total, *_, **__: seen.append((value, total))):
        ask(one, noise(seed=5))
    assert seen[0] == (1, 64) and seen == sorted(set(seen)) and seen[-1][0] <= 5  # the host leaves out some of many
    hook = one.encoder.llava.model.language_model.register_forward_pre_hook(stop)
    try:
        ask(one, noise(seed=6))
        raise AssertionError("it went on")
    except management.InterruptProcessingException:
        assert len(calls) == 3
    finally:
        hook.remove()
    assert ask(one, noise(seed=6))[4]


def check_whatever_it_writes_is_answered():
    one = reader()
    encoder = one.encoder
    texts = [
        "", " ", "{{prompt}}", "{{prompt}}{{/prompt}}", "{{/prompt}}", "<PROMPT></PROMPT>remove the dog",
        "{{prompt}}remove a cat{{/prompt}}{{prompt}}{{/prompt}}", "<instruction>remove the dog</instruction>",
        "{{prompt}}remove the dog", "Remove the dog.", "[prompt] remove [/prompt] remove the dog", "<think>",
        "dog " * 10_000, '{"prompt": "remove the dog"}', "\U0001f415" * 300,
    ]  # fmt: skip
    for seed, text in enumerate(texts):
        tokens = [*encoder.tokenizer.encode(text)[1:], encoder.tokenizer.eos]
        with patch.object(encoder, "generate", lambda *_, tokens=tokens: (tokens, torch.randn(1, len(tokens), 64))):
            prompt, response, _, _, met, _, conditioning = ask(one, noise(1, 10, 10), seed=seed, temperature=0.2)
        assert response.strip() and bool(prompt) == met, text[:40]
        ((states, options),) = conditioning
        assert states.shape[1] > 0 and ("lgvi_unmet" in options) != met, text[:40]


def check_what_it_cannot_read_is_refused_by_name():
    one = reader()
    raises("Say it shorter", ask, one, noise(), request="dog " * 5000)
    raises("looks at the video", ask, one, None)
    raises("one side may be", ask, one, noise(1, 2, 300))
    assert ask(one, noise(1, 10, 10), request="\u72ac\u3092\u6d88\u3057\u3066")[4]

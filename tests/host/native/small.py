"""Small checkpoints and what is needed to run them on the host, for the checks beside this file."""

import contextlib
import functools
import importlib
import json
from types import SimpleNamespace

import torch

HOST = SimpleNamespace()  # comfyui, work: folders; pack: its module; import_seconds, imported: of the pack (run.py)
FRAMES, SIZE = 6, 16

UNET = {
    "in_channels": 12,
    "out_channels": 12,
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "mask_channels": 32,
}
TEXT = {
    "vocab_size": 520,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "bos_token_id": 516,
    "eos_token_id": 517,
    "pad_token_id": 517,
}
KL = {
    "block_out_channels": [32, 32, 64, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
SPACE_TO_DEPTH = {"kind": "space_to_depth", "factor": 2, "scaling_factor": 1.5}
STABLE_DIFFUSION = {
    "_class_name": "PNDMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "prediction_type": "epsilon",
}
ZERO_SNR = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
}
FILL = {
    "in_channels": 25,
    "temp_attn": False,
    "mask_decoder_type": None,
    "frame_norm": True,
    "motion_attention": ("temporal", "temporal", "global", "text"),
}
COCOCO = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "set_alpha_to_one": True,
    "prediction_type": "epsilon",
}
# Checkpoints of one file: the U-Net's config, the scheduler's, the autoencoder's.
KINDS = {
    "sample": (
        {**UNET, "gate": True, "mask_upscale": 2, "coordinates": True, "pooled_text": True},
        {**ZERO_SNR, "prediction_type": "sample"},
        SPACE_TO_DEPTH,
    ),
    "velocity": (UNET, {**ZERO_SNR, "prediction_type": "v_prediction"}, SPACE_TO_DEPTH),
    "epsilon": (UNET, STABLE_DIFFUSION, SPACE_TO_DEPTH),
    "concatenated": ({**UNET, "in_channels": 24}, STABLE_DIFFUSION, SPACE_TO_DEPTH),
    "stable diffusion": (
        {**UNET, "in_channels": 4, "out_channels": 4},
        STABLE_DIFFUSION,
        {"kind": "autoencoder_kl", **KL},
    ),
    "fill": ({**UNET, **FILL}, COCOCO, SPACE_TO_DEPTH),
    "fill sample": (
        {**UNET, **FILL, "gate": True, "reuse": True, "coordinates": True, "pooled_text": True},
        {**ZERO_SNR, "prediction_type": "sample"},
        SPACE_TO_DEPTH,
    ),
    "fill stable diffusion": (
        {**UNET, **FILL, "in_channels": 9, "out_channels": 4},
        COCOCO,
        {"kind": "autoencoder_kl", **KL},
    ),
    "no mask decoder": ({**UNET, "mask_decoder_type": None}, STABLE_DIFFUSION, SPACE_TO_DEPTH),
}


def ours(name):
    """A module of the pack."""
    return importlib.import_module(f"{HOST.pack.__name__}.{name}")


def core(name):
    """A module of ComfyUI."""
    return importlib.import_module(name)


def tokenizer_files():
    """A CLIP tokenizer of single bytes, four merges and the two special tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    merges = ["r e", "re d</w>", "t h", "th e</w>"]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return {"vocab.json": json.dumps(vocabulary), "merges.txt": "\n".join(["#version: 0.2", *merges, ""])}


@functools.cache
def checkpoint_file(kind):
    """A small checkpoint of random weights, none of them zero, in one file."""
    models, autoencoder = ours("lgvi_core.models"), ours("lgvi_core.models.autoencoder")
    checkpoints, text_encoder = ours("lgvi_core.checkpoints"), ours("lgvi_core.models.text_encoder")
    unet_config, scheduler, vae_config = KINDS[kind]
    config = models.UNetConfig(**unet_config)
    torch.manual_seed(1)
    unet = models.InflatedUNet(config)
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    image_guidance = {} if config.is_inpainting else {"image_guidance_scale": 1.5}
    checkpoint = checkpoints.Checkpoint(
        config,
        unet.eval(),
        autoencoder.autoencoder_from_config(vae_config).eval(),
        text_encoder.TextEncoder(TEXT, tokenizer_files()).eval(),
        scheduler_config={"num_train_timesteps": 1000, "clip_sample": False, **scheduler},
        training={"width": SIZE, "height": SIZE, "frames": FRAMES},
        sampling={"steps": 4, "guidance_scale": 3.0, "scheduler": "ddim"} | image_guidance,
        family="cococo" if config.is_inpainting else "lgvi",
    )
    path = HOST.work / f"{kind}.safetensors"
    checkpoints.save(checkpoint, path)
    return path


@functools.cache
def loaded(kind):
    return ours("nodes.host").load(checkpoint_file(kind))


def clip_of(frames=FRAMES, height=SIZE, width=SIZE):
    """IMAGE frames of a moving gradient with some noise, in steps of 1 / 255."""
    generator = torch.Generator().manual_seed(frames)
    ramp = torch.linspace(0, 1, width)[None, None, :, None].expand(frames, height, width, 3)
    ramp = torch.stack([torch.roll(frame, i, 1) for i, frame in enumerate(ramp)])
    return ((ramp * 0.7 + 0.3 * torch.rand(frames, height, width, 3, generator=generator)) * 255).round() / 255


def conditions(kind="epsilon", frames=FRAMES, height=SIZE, width=SIZE):
    """What LGVI Condition Encode gives: (text and video, video, neither, latent)."""
    parts = loaded(kind)
    encode = ours("nodes.condition_encode").ConditionEncode
    return encode.execute(parts.clip, parts.vae, clip_of(frames, height, width), "remove the red circle").result


def noise_for(latent, seed=3):
    return torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(seed))


def sample(model, given, steps=3, sampler="euler", scheduler="normal", seed=3):
    """Core's KSampler on text and video against video."""
    positive, negative, _, latent = given
    return core("nodes").common_ksampler(model, seed, steps, 2.5, sampler, scheduler, positive, negative, latent)[0][
        "samples"
    ]


def sample_custom(guider, sampler, sigmas, latent, noise):
    """Core's SamplerCustomAdvanced."""
    source = SimpleNamespace(seed=3, generate_noise=lambda _: noise)
    advanced = core("comfy_extras.nodes_custom_sampler").SamplerCustomAdvanced
    return advanced.execute(source, guider, sampler, sigmas, latent).result[0]["samples"]


def sample_as_published(model, given, steps, scales=(3.0, 1.5), latent=None):
    """LGVI Three-Way Guider and LGVI Sampler in SamplerCustomAdvanced."""
    guider = ours("nodes.guider").ThreeWayGuider.execute(model, *given[:3], *scales).result[0]
    sampler, sigmas = ours("nodes.sampler").DDIMSampler.execute(model, steps).result
    return sample_custom(guider, sampler, sigmas, latent or given[3], noise_for(given[3]))


def denoised_by_lgvi_core(kind, noise, steps, scales):
    """The same through `lgvi_core.sampling`, in the layout and scale of the host's LATENT."""
    sampling, conditioning = ours("lgvi_core.sampling"), ours("lgvi_core.conditioning")
    checkpoint = ours("lgvi_core.checkpoints").load(checkpoint_file(kind), dtype=torch.float32)
    frames = (clip_of() * 255).round().to(torch.uint8).numpy()
    pixels = conditioning.to_pixels(list(frames), conditioning.WorkSize(SIZE, SIZE, SIZE, SIZE), "cpu")
    with torch.no_grad():
        condition = conditioning.encode(checkpoint.vae, pixels, torch.Generator())
        text, empty = (checkpoint.text_encoder.encode([words]) for words in ("remove the red circle", ""))
    latents = sampling.denoise(
        checkpoint.unet,
        noise.transpose(0, 1)[None],
        text,
        empty,
        condition,
        sampling.make_scheduler("ddim", checkpoint.scheduler_config),
        steps,
        *scales,
    ).latents
    return latents[0].transpose(0, 1) / checkpoint.vae.scaling_factor


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


@contextlib.contextmanager
def counting(model):
    """The conds that each call of the network runs together, as a list that fills."""
    calls = []
    unet = model.model.diffusion_model
    inner = unet._forward

    def count(x, timesteps, context, control, transformer_options, **conds):
        calls.append(list(transformer_options["cond_or_uncond"]))
        return inner(x, timesteps, context, control, transformer_options, **conds)

    unet._forward = count
    try:
        yield calls
    finally:
        del unet._forward


def raises(message, call, *arguments, **named):
    error = ours("lgvi_core.errors").InputError
    try:
        call(*arguments, **named)
    except error as raised:
        assert message in str(raised), f"{message!r} is not in {str(raised)!r}"
        return
    raise AssertionError(f"no InputError with {message!r}")


def write_part(folder, config, weights, name="diffusion_pytorch_model.safetensors"):
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / name, {"format": "pt"})


LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def lora_for(name):
    generator = torch.Generator().manual_seed(0)
    up, down = torch.randn(32, 4, generator=generator), torch.randn(4, 32, generator=generator)
    return {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}

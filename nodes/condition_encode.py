"""Prompt and video to what an LGVI MODEL samples under."""

from __future__ import annotations

import node_helpers
import torch
from comfy_api.latest import io

from ..lgvi_core.errors import InputError
from .steering import steers, why_not


class ConditionEncode(io.ComfyNode):
    """The three conditions of LGVI's guidance and the LATENT to sample, for graphs of core nodes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGVIConditionEncode",
            display_name="LGVI Condition Encode",
            category="lgvi",
            description="Encodes a prompt and a video for an LGVI MODEL. With KSampler use 'text and video' as "
            "positive and 'video' as negative; with LGVI Three-Way Guider (or Dual CFG Guider) use all three.",
            search_aliases=["lgvi conditioning", "instruct pix2pix video", "encode video condition", "video prompt"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the MODEL: CLIP of Load LGVI, or of Load CLIP."),
                io.Vae.Input("vae", tooltip="The autoencoder of the MODEL: VAE of Load LGVI, or of Load VAE."),
                io.Image.Input("frames", tooltip="The frames of the video, in order. All together are one clip."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="remove the red circle on the left",
                    tooltip="What to remove, in plain words. Parentheses are words too; they carry no weights.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="The words as CONDITIONING, in place of the prompt: that of MLLM Request→Prompt.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "text_and_video", display_name="text and video", tooltip="Prompt and video: the positive condition."
                ),
                io.Conditioning.Output(
                    "video", display_name="video", tooltip="Empty prompt and video: KSampler's negative condition."
                ),
                io.Conditioning.Output(
                    "neither", display_name="neither", tooltip="Empty prompt, no video: for three-way guidance."
                ),
                io.Latent.Output(
                    "latent", display_name="latent", tooltip="An empty latent of the video's size, frames as the batch."
                ),
            ],
        )

    @classmethod
    def execute(cls, clip, vae, frames, prompt, positive=None) -> io.NodeOutput:
        if said := why_not(positive):
            raise InputError(f"{said}, so there is nothing to encode")
        if positive is None and not prompt.strip():
            raise InputError('the prompt is empty: say what to remove, for example "remove the red circle on the left"')
        latents = vae.encode(checked_frames(frames, vae.spacial_compression_encode()))
        video = {"concat_latent_image": latents}
        text = encode_text(clip, prompt.strip()) if positive is None else positive
        empty = [[torch.zeros_like(text[0][0]), {}]] if steers(text) else encode_text(clip, "")
        return io.NodeOutput(
            node_helpers.conditioning_set_values(text, video),
            node_helpers.conditioning_set_values(empty, video),
            empty,
            {"samples": torch.zeros_like(latents)},
        )


def encode_text(clip, words: str) -> list:
    """CONDITIONING of words as they stand: parentheses carry no weights."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(words, disable_weights=True))


def checked_frames(frames: torch.Tensor, factor: int) -> torch.Tensor:
    """Frames (T, H, W, 3) as an autoencoder takes them whole; an alpha channel is left out.

    Raises `InputError` for another shape, no frames, or sides that are no multiples of `factor`.
    """
    if frames.ndim != 4 or not frames.numel() or frames.shape[-1] not in (3, 4):
        raise InputError(
            f"frames have the shape {tuple(frames.shape)}; expected (frames, height, width, 3) with at least one frame"
        )
    height, width = frames.shape[1:3]
    if height % factor or width % factor:
        fits = f"{max(width // factor, 1) * factor}x{max(height // factor, 1) * factor}"
        raise InputError(
            f"frames are {width}x{height}; this VAE takes sides that are multiples of {factor}, such as {fits}: put "
            "an image resize or crop node before this one (Video Inpaint Sampler takes any size)"
        )
    return frames[..., :3]

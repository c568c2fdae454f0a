"""LGVI-I's language model as the host keeps its models: on the device while it answers, and away for what is next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from torch import Tensor, nn

from ..lgvi_core.checkpoints import load_request_encoder, open_source, request_file
from ..lgvi_core.checkpoints.official_lgvi import matches as has_unet
from ..lgvi_core.conversation import Turn
from ..lgvi_core.models.request_encoder import Reply, RequestEncoder
from ..lgvi_core.understanding import Understanding
from . import steering

HALF = torch.float16


class LanguageModel(nn.Module):
    """The encoder for the host, which sets attributes of its own on what it loads."""

    def __init__(self, encoder: RequestEncoder):
        super().__init__()
        self.encoder = encoder


@dataclass(frozen=True, eq=False)
class RequestReader:
    """A request encoder, and the mark of the U-Net that it steers; "" where it is not known, and only its words count.

    `patcher` is the host's, around a `LanguageModel`.
    """

    patcher: comfy.model_patcher.ModelPatcher
    mark: str

    @property
    def encoder(self) -> RequestEncoder:
        return self.patcher.model.encoder

    def on_device(self) -> RequestEncoder:
        """The encoder where it computes, as much of it as there is room for; the host makes that room."""
        text, device = self.encoder.llava.config.text_config, self.patcher.load_device
        cache = 2 * text.num_hidden_layers * text.hidden_size * self.encoder.max_length * self.encoder.dtype.itemsize
        comfy.model_management.load_models_gpu([self.patcher], memory_required=cache)
        for module in self.encoder.modules():
            if isinstance(module, comfy.ops.CastWeightBiasOp):
                continue
            for name, value in module.named_parameters(recurse=False):  # left behind by the host where room is short
                setattr(module, name, nn.Parameter(value.to(device), requires_grad=False))
            for name, value in module.named_buffers(recurse=False):
                setattr(module, name, value.to(device))
        return self.encoder

    def conditioning(self, understood: Understanding) -> list | None:
        """CONDITIONING of what was understood, None for a reader of words alone."""
        if not self.mark:
            return None
        if understood.features is None:
            return steering.nothing(self.encoder.head[-1].out_features, self.mark, understood.answer)
        device = comfy.model_management.intermediate_device()
        return steering.steering(understood.features.to(device, torch.float32), self.mark)


@dataclass(frozen=True)
class Answering:
    """A `RequestReader` as the encoder of `understanding.EndToEnd`: loaded when it is asked, shown and stopped."""

    reader: RequestReader
    temperature: float
    seed: int

    def answer(self, frame: Tensor, request: str, turns: Sequence[Turn], max_tokens: int) -> Reply:
        """As `RequestEncoder.answer`."""
        encoder, progress = self.reader.on_device(), comfy.utils.ProgressBar(max_tokens)

        def after_token(count: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            progress.update_absolute(count)

        generator = torch.Generator().manual_seed(self.seed)
        with comfy.model_management.cuda_device_context(self.reader.patcher.load_device):
            return encoder.answer(frame, request, turns, max_tokens, self.temperature, generator, after_token)


def load_reader(path: Path, base: Path | None = None) -> RequestReader:
    """The request encoder at `path` over LLaVA at `base`, as `checkpoints.load_request_encoder` finds and refuses them.

    Its linear layers have the type that the host gives text encoders, all else what is computed in: float32 on a CPU.
    """
    mark, management = mark_of(path), comfy.model_management
    device, away = management.text_encoder_device(), management.text_encoder_offload_device()
    stored = management.text_encoder_dtype(device)
    read_as = stored if stored.itemsize > 1 else HALF
    computed = torch.float32 if management.is_device_cpu(device) else read_as
    encoder = load_request_encoder(path, base, device=away, dtype=read_as)
    encoder.requires_grad_(False)
    for module in encoder.llava.modules():
        if type(module) is nn.Linear:
            module.__class__ = comfy.ops.manual_cast.Linear  # which the host moves by itself, and casts when it is used
    for module in encoder.modules():
        dtype = stored if isinstance(module, comfy.ops.CastWeightBiasOp) else computed
        for value in module.parameters(recurse=False):
            value.data = value.data.to(dtype)
    patcher = comfy.model_patcher.CoreModelPatcher(LanguageModel(encoder), load_device=device, offload_device=away)
    return RequestReader(patcher, mark)


def mark_of(path: Path) -> str:
    """The mark of the U-Net that the request encoder at `path` steers: as its file says, or that of its own folder."""
    if request_file.matches(path):
        return request_file.steered(path)
    return request_file.mark(open_source(path).unet) if has_unet(path) else ""

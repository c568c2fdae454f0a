"""Train LGVI: `python -m train.lgvi --config train/configs/demo.yaml [key=value ...]`.

One process, from nothing, on clips that the code draws itself. U-Net, mask decoder and text encoder are trained
together; the objective is LGVI's (diffusion and mask loss, equation 3) with the options of the config. Features:
images first and then images and videos mixed by whole batches, conditioning dropout, zero terminal SNR, epsilon, v and
sample prediction, EMA, cosine rate with warm-up, gradient clipping, bf16, an auxiliary task (`recognition.py`), resume
(which clips and which noise a step sees depends on the seed and the step alone), a log per step as JSON lines, a curve
and strips of samples as pictures.
Not here: several processes, other datasets, pretrained weights, LoRA.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import math
import signal
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lgvi_core import checkpoints
from lgvi_core.errors import InputError
from lgvi_core.models import InflatedUNet, UNetConfig
from lgvi_core.models.attention import explicit_product
from lgvi_core.models.autoencoder import autoencoder_from_config
from lgvi_core.models.text_encoder import TextEncoder

from . import config as configs
from . import state
from .config import TrainConfig
from .data import mixing
from .data.synthetic import sentences
from .objectives import add_noise, draw_timesteps, losses, target
from .recognition import Recognition
from .samples import Validation, plot_log
from .tokenizer import train_clip_tokenizer

log = logging.getLogger(__name__)


class Model(nn.Module):
    """The parts that train together."""

    def __init__(self, unet: InflatedUNet, text_encoder: TextEncoder, recognition: Recognition | None):
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.recognition = recognition

    def forward(self, noisy, timesteps, token_ids, condition):
        """The U-Net's prediction and mask, and the text features (B, N, D)."""
        text = self.text_encoder(token_ids)
        return *self.unet(noisy, timesteps, text, condition, return_mask=True), text


def build(config: TrainConfig) -> tuple[Model, nn.Module]:
    """Fresh model and autoencoder; the weights depend on the seed alone."""
    torch.manual_seed(config.seed)
    files = train_clip_tokenizer(sentences(config.seed, config.tokenizer_sentences), config.tokenizer_merges)
    size = len(json.loads(files["vocab.json"]))
    special = {"bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
    text_encoder = TextEncoder({**config.text_encoder, "vocab_size": size, **special}, files)
    # CLIP's own start, 0.02, drowns what a word is in what its neighbours are: small models then read late or never.
    nn.init.normal_(text_encoder.model.get_input_embeddings().weight)
    unet_config = UNetConfig.from_public({**config.unet, "cross_attention_dim": config.text_encoder["hidden_size"]})
    unet = InflatedUNet(unet_config, attention=explicit_product)
    recognition = Recognition(unet, config.recognition.blocks) if config.recognition.blocks else None
    return Model(unet, text_encoder, recognition), autoencoder_from_config(config.autoencoder)


def noise_schedule(scheduler_config: dict) -> Tensor:
    """Cumulative alphas (T,) of a scheduler config, zero terminal SNR included."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(scheduler_config).alphas_cumprod


def to_latents(autoencoder: nn.Module, frames: Tensor) -> Tensor:
    """uint8 frames (B, T, H, W, 3) to latents (B, C, T, h, w)."""
    pixels = frames.permute(0, 1, 4, 2, 3).flatten(0, 1).float() / 127.5 - 1
    return autoencoder.encode(pixels).unflatten(0, frames.shape[:2]).transpose(1, 2)


def training_step(
    step: int, batch: dict, model: Model, autoencoder, alphas: Tensor, config: TrainConfig, device
) -> dict:
    """Losses of one batch; every draw comes from a generator seeded by the seed and the step."""
    generator = torch.Generator(device).manual_seed(config.seed * 1_000_003 + step)
    frames, clean, mask = (batch[name].to(device, non_blocking=True) for name in ("frames", "clean", "mask"))
    condition, latents = to_latents(autoencoder, frames), to_latents(autoencoder, clean)
    count = len(frames)

    chance = torch.rand(count, generator=generator, device=device)
    drop = config.dropout
    no_text = chance < drop.text + drop.both
    no_video = (chance >= drop.text) & (chance < drop.text + drop.both + drop.video)
    condition = condition * ~no_video.view(-1, 1, 1, 1, 1)
    token_ids = model.text_encoder.tokenize(batch["sentence"]).to(device, non_blocking=True)
    empty = model.text_encoder.tokenize([""]).to(device)
    token_ids = torch.where(no_text[:, None], empty, token_ids)

    timesteps = draw_timesteps(count, len(alphas), config.noisiest, generator)
    noise = torch.randn(latents.shape, generator=generator, device=device)
    noisy = add_noise(latents, noise, timesteps, alphas)
    watching = contextlib.nullcontext() if model.recognition is None else model.recognition.watch(model.unet)
    with watching as outputs, torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        prediction, probability, text = model(noisy, timesteps, token_ids, condition)
    wanted = target(config.scheduler["prediction_type"], latents, noise, timesteps, alphas)
    parts = losses(prediction, wanted, probability, mask[:, None].float(), config.loss)
    if model.recognition is not None:
        names = ("owners", "facts", "mentions")
        owners, facts, mentions = (batch[name].to(device, non_blocking=True) for name in names)
        parts["recognition"] = model.recognition(outputs, text, owners, facts, mentions & ~no_text[:, None])
        parts["total"] = parts["total"] + config.recognition.weight * parts["recognition"]
    return parts


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to `final_learning_rate`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine


def checkpoint_of(model: Model, autoencoder: nn.Module, config: TrainConfig) -> checkpoints.Checkpoint:
    """The trained parts as a checkpoint that `lgvi_core` loads."""
    return checkpoints.Checkpoint(
        config=model.unet.config,
        unet=model.unet,
        vae=autoencoder,
        text_encoder=model.text_encoder,
        scheduler_config=config.scheduler,
        training=config.training_size,
        sampling=config.sampling,
        licence=config.licence,
    )


def train(config: TrainConfig, device: torch.device) -> Path | None:
    """Run or go on with a run; returns the checkpoint's path, or None when time was up before the last step."""
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1))
    model, autoencoder = build(config)
    model.to(device).train()
    alphas = noise_schedule(config.scheduler).to(device)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    other = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": other, "weight_decay": 0.0}]
    fused = device.type == "cuda"
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), fused=fused)
    ema = state.EMA(model, config.ema_decay)
    start = state.restore(output / "state.pt", model, ema, optimizer)
    log.info(
        "%.2f M parameters on %s, from step %d of %d",
        sum(p.numel() for p in model.parameters()) / 1e6,
        device,
        start,
        config.steps,
    )

    validation = Validation(config.seed, device)
    cells = config.recognition.cells if config.recognition.blocks else None
    batches = mixing.loader(config.seed, config.batches, start, config.steps, config.workers, fused, cells)
    began = saved = time.monotonic()
    step = start
    with open(output / "log.jsonl", "a") as journal, tqdm(total=config.steps, initial=start, unit="step") as bar, \
            signals() as asked_to_stop:  # fmt: skip
        for batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            parts = training_step(step, batch, model, autoencoder, alphas, config, device)
            if step % config.log_every == 0:
                record = {name: round(value.item(), 6) for name, value in parts.items()}
                if not math.isfinite(record["total"]):
                    raise FloatingPointError(f"the loss is {record['total']} at step {step}: {record}")
                record |= {"step": step, "frames": batch["frames"].shape[1], "lr": group["lr"]}
                journal.write(json.dumps(record | {"seconds": round(time.monotonic() - began, 1)}) + "\n")
                journal.flush()
                bar.set_postfix(loss=record["total"], mask=record["mask"])
            optimizer.zero_grad(set_to_none=True)
            parts["total"].backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            optimizer.step()
            step += 1
            ema.update(step)
            bar.update()
            if step % config.sample_every == 0:
                measured = validation.run(ema.module, autoencoder, output / f"samples-{step:06d}.png")
                journal.write(json.dumps({"step": step, "validation": measured}) + "\n")
                log.info("step %d: %s", step, measured)
            time_up = config.max_minutes is not None and time.monotonic() - began > 60 * config.max_minutes
            leaving = asked_to_stop or time_up or step == config.steps
            if leaving or time.monotonic() - saved > 60 * config.save_minutes:
                state.save(output / "state.pt", step, model, ema, optimizer)
                saved = time.monotonic()
            if leaving:
                break
    if asked_to_stop:
        raise KeyboardInterrupt
    plot_log(output / "log.jsonl", output / "log.png")
    if step < config.steps:
        log.info("stopped at step %d of %d; the same command goes on from there", step, config.steps)
        return None
    path = output / "checkpoint.safetensors"
    checkpoints.save(checkpoint_of(ema.module, autoencoder, config), path, dtype=torch.float16)
    log.info("wrote %s", path)
    return path


@contextlib.contextmanager
def signals():
    """A list that fills when the process is asked to stop (Ctrl-C, SIGTERM), so that a step is never cut in two."""
    asked = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, lambda *_: asked.append(True)) for kind in kinds]
    try:
        yield asked
    finally:
        for kind, handler in zip(kinds, before):
            signal.signal(kind, handler)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.lgvi", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="YAML file, such as train/configs/demo.yaml")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="change a config key, e.g. steps=100 loss.mask=0.5"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        train(configs.load(options.config, options.overrides), torch.device(options.device))
    except InputError as error:
        log.error("%s", error)
        return 2
    except KeyboardInterrupt:
        log.info("interrupted; the state is saved and the same command goes on from there")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

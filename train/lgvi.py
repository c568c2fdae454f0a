"""Train LGVI: `python -m train.lgvi --config FILE [key=value ...]`, or `accelerate launch -m train.lgvi ...`.

What it does:
- one process or several, on one machine or more: DDP, FSDP and DeepSpeed (stages 1 and 2) by Accelerate's own settings;
- starts from MagicBrush, InstructPix2Pix, Stable Diffusion 1.5, an LGVI checkpoint or nothing (`initialise.py`);
- LGVI-I: a language model that reads requests trains with it (`talk_start.py`, `talk_model.py`, `talk_objective.py`);
- LGVI's objective (equation 3): diffusion and mask loss, conditioning dropout, epsilon, v and sample prediction, zero
  terminal SNR, Min-SNR, timestep weighting of the mask (`objectives.py`), an auxiliary task (`recognition.py`);
- the whole U-Net, what `trainable` matches, or LoRA (`lora.py`); the text encoder frozen or trained;
- images and videos by whole batches of several sizes, any number of accumulated passes (`data/`), cached latents;
- AdamW or 8-bit AdamW, groups with their own rates and schedules, warm-up, clipping, EMA (`optimizer.py`);
- fp32, bf16, fp16; gradient checkpointing;
- exact resume: give the same command again. Data, noise and dropout of a step depend on the seed and the step alone; on
  a CPU the parameters are the same bit for bit as without the interruption (`state.py`);
- watching: progress, journal, TensorBoard, held-out clips, pictures, a report (`watch.py`).

Limits:
- Ctrl-C and SIGTERM save and leave after the step in progress; the exit code is 130.
- With several machines all must see the output folder.
- FSDP: held-out clips are not looked at; EMA is kept by each process for its shard, and gathered for the checkpoint; a
  state needs the same number of processes again; the option `use_orig_params` must be on.
- DeepSpeed: EMA averages the weights that it computes with, which are of half precision in bf16 and fp16.
- Several processes give what one would, to rounding; several passes likewise.
"""

from __future__ import annotations

import argparse
import logging
import sys
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from lgvi_core import checkpoints
from lgvi_core.errors import InputError
from lgvi_core.locks import alone

from . import check, lora, talk_export
from . import config as configs
from .config import TrainConfig
from .data import mixing
from .loop import Trainer, accelerated
from .model import Parts, build, checkpoint_of
from .objectives import make_objective
from .watch import Watcher

log = logging.getLogger(__name__)


def train(config: TrainConfig, device: str | None = None) -> Path | None:
    """Run or go on with a run; returns the checkpoint's path, or None when time was up before the last step.

    device: "cpu", or a GPU such as "cuda:1"; None leaves it to Accelerate. Raises as `loop.Trainer` does.
    """
    output = Path(config.output)
    with accelerated(config, device) as accelerator, alone(output, accelerator.is_main_process):
        main = accelerator.is_main_process
        parts = build(config)
        for frozen in (parts.autoencoder, parts.model.text_encoder):
            frozen.to(accelerator.device)
        objective = make_objective(config, parts, accelerator.device)
        trainer = Trainer(config, parts.model, accelerator, output / "states")
        world, rank = accelerator.num_processes, accelerator.process_index
        batches = mixing.loader(config, trainer.step, rank, world, accelerator.device.type == "cuda")
        watcher = Watcher(config, output, trainer.step, main)
        for line in (*parts.report, describe(trainer)):
            watcher.message(line)
        try:
            write = partial(export, trainer=trainer, parts=parts)
            finished = trainer.train(batches, objective, watcher, parts.autoencoder, write)
            path = write("lora" if config.lora else "checkpoint") if finished else None
        except BaseException:
            try:
                watcher.close(False)
            except OSError as error:  # a full disk: what stopped the run matters more
                log.warning("the report cannot be written: %s", error)
            raise
        watcher.close(finished)
    if path is None and main:
        log.info("stopped at step %d of %d; the same command goes on from there", trainer.step, config.steps)
    return path


def export(name: str, trainer: Trainer, parts: Parts) -> Path:
    """Write the model as it is at this step, or its adapters, into the output folder as `name`.safetensors."""
    config, accelerator = trainer.config, trainer.accelerator
    path = Path(config.output) / f"{name}.safetensors"
    with trainer.averaged():
        sharded = accelerator.distributed_type == DistributedType.FSDP
        weights = accelerator.get_state_dict(trainer.model) if sharded else None
        if accelerator.is_main_process:
            model = parts.model
            if sharded:
                model = build(config).model
                model.load_state_dict(weights)
            if config.lora is not None:
                lora.save(model.unet, path, config)
            elif config.request_encoder is None or config.request_encoder.unet:
                checkpoints.save(checkpoint_of(model, parts.autoencoder, config), path, dtype=torch.float16)
            if config.request_encoder is not None:
                path = talk_export.save(model, config, path)
            log.info("wrote %s", path)
    accelerator.wait_for_everyone()
    return path


def describe(trainer: Trainer) -> str:
    """One line on what trains, where, and from which step."""
    parameters = list(trainer.bare.parameters())
    trained, frozen = (sum(p.numel() for p in parameters if p.requires_grad is kind) / 1e6 for kind in (True, False))
    accelerator: Accelerator = trainer.accelerator
    where = f"{accelerator.num_processes} x {accelerator.device.type} ({accelerator.distributed_type.value})"
    steps = f"from step {trainer.step} of {trainer.config.steps}"
    return f"{trained:.2f} M parameters train, {frozen:.2f} M are frozen, on {where}, {steps}"


def main(arguments: list[str] | None = None, prog: str = "python -m train.lgvi", adapt=lambda config: config) -> int:
    """The command; `adapt` gives the config that runs in place of the one that was read."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="YAML file, such as train/configs/demo.yaml")
    parser.add_argument("--device", help="cpu, cuda or cuda:1; default: a GPU where there is one")
    parser.add_argument("--check", action="store_true", help="say what the run will do and whether it can, and stop")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="change a config key, e.g. steps=100 loss.mask=0.5"
    )
    options = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("accelerate").setLevel(logging.WARNING)
    try:
        config = adapt(configs.load(options.config, options.overrides))
        if options.check:
            print("\n".join(check.run(config, options.device)))
            return 0
        train(config, options.device)
    except (InputError, FloatingPointError, OSError) as error:
        log.error("%s", error)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        log.info("interrupted; the same command goes on from the last state")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

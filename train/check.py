"""What a run will do and whether it can, before any of it is done: `python -m train.lgvi --config FILE --check`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

from lgvi_core.errors import InputError

from .config import Batches, TrainConfig
from .data.plan import Plan
from .data.sources import LAYOUTS, open_source
from .footprint import HALF, Cost, cost, trained_layers
from .model import Parts, build
from .objectives import MASK_PARTS, check_losses
from .optimizer import REST, make_optimizer, parameter_groups
from .talk_cost import language_cost
from .timing import product_speed, span, timed
from .watch import open_held_out

SAMPLES_READ = 3  # of each dataset
SMALL = 50e6  # parameters up to which passes are timed
EFFICIENCY = 0.4  # of the speed of a matrix product, what training reaches
A100 = 312e12  # operations a second in bf16, by its data sheet
WORKSPACE = 1.1  # of activations, for kernels' buffers and gradients of activations


@dataclass(frozen=True)
class Run:
    """A config with its networks on the meta device; `kinds` are (batch, expected steps, clips a pass, its cost)."""

    config: TrainConfig
    parts: Parts
    device: torch.device
    world: int
    kinds: list[tuple[Batches, float, int, Cost]]


def run(config: TrainConfig, device: str | torch.device | None = None) -> list[str]:
    """Lines that say what a run on `device` will see, do, need and take.

    Raises `InputError` with every problem found, after the lines that could be made: data that is absent or cannot be
    read, a checkpoint that does not fit, packages that are absent, too little memory or disk.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    world = int(os.environ.get("WORLD_SIZE", 1))
    lines, problems = [], []

    def gather(part: Iterator[str]) -> None:
        try:
            for line in part:
                lines.append(line)
        except InputError as error:
            problems.append(str(error))

    gather(data(config))
    try:
        parts = build(config, weights=False)
    except InputError as error:
        problems.append(str(error))
    else:
        plan = Run(config, parts, device, world, kinds_of(config, parts, world))
        for part in (networks(plan), memory(plan), disk(plan), duration(plan, measured=not problems)):
            gather(part)
    if problems:
        raise InputError("\n".join([*lines, "This cannot run:", *(f"- {problem}" for problem in problems)]))
    return lines


def data(config: TrainConfig) -> Iterator[str]:
    """Opens the datasets and reads some samples of each; what each kind of batch takes from them."""
    absent = []
    for name, settings in config.data.items():
        root = settings.get("root")
        if root is not None and not Path(root).expanduser().exists():
            layout = LAYOUTS.get(settings.get("kind"))
            hint = f"data.{name}.root must be the dataset's folder" if layout is None else layout.WHERE
            absent.append(f"data.{name}: there is nothing at {root}: {hint} as data.{name}.root")
    if absent:
        for i, (batch, steps) in enumerate(zip(config.batches, expected_steps(config))):
            size = f"{batch.frames} frames of {batch.width}x{batch.height}"
            yield f"batches[{i}]: about {steps:,.0f} steps of {batch.size:,} from {batch.data}, {size}"
        raise InputError("\n- ".join(absent))
    plan = Plan(config)
    yield from plan.summary()
    sources = {name: source for name, source in plan.sources.items() if source is not None}
    watched = config.watch.data
    if config.data[watched].get("kind") != "synthetic" and watched not in sources:
        sources[watched] = open_source(watched, config.data[watched], config.seed)
    for name, source in sources.items():
        chosen = sorted({round(i * (len(source) - 1) / (SAMPLES_READ - 1)) for i in range(SAMPLES_READ)})
        for i in chosen:
            entry = source.entry(i)
            source.load(i, [0, entry.frames - 1], entry.height, entry.width)
        yield f"data.{name}: {len(source):,} samples, {len(chosen)} of them read"
    if config.watch.samples:
        yield f"held-out clips: {open_held_out(config).count:,} of data.{watched}"


def networks(plan: Run) -> Iterator[str]:
    """Where the networks come from, and which parameters train at which rate."""
    config, model = plan.config, plan.parts.model
    yield from plan.parts.report
    check_losses(config, model.unet.config)
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    frozen = sum(p.numel() for p in parameters) - trained
    whose = "the U-Net" if config.request_encoder is None else "U-Net and language model"
    yield f"parameters: {trained / 1e6:,.2f} M train, {frozen / 1e6:,.2f} M of {whose} are frozen"
    groups = parameter_groups(model, config.optimizer)
    make_optimizer(groups, config.optimizer, fused=False)
    settings = {group.match: group for group in config.optimizer.groups}
    for name in dict.fromkeys(group["name"] for group in groups):
        own = settings.get(name)
        rate = own and own.learning_rate or config.optimizer.learning_rate
        schedule = own and own.schedule or config.optimizer.schedule
        count = sum(p.numel() for group in groups if group["name"] == name for p in group["params"])
        label = "the rest" if name == REST and settings else "all" if name == REST else repr(name)
        yield f"optimizer: {label}: {count / 1e6:,.2f} M at {rate:g}, {schedule}, {config.optimizer.kind}"


def memory(plan: Run) -> Iterator[str]:
    """What the device must hold; `InputError` if it cannot."""
    config = plan.config
    trained, values = sizes(plan.parts)
    batch, _, micro, worst = max(plan.kinds, key=lambda kind: kind[3].activations)
    parts = {
        "weights": stored(plan.parts),
        "gradients": 4 * trained,
        "optimizer": (2 if config.optimizer.kind == "adamw8bit" else 8) * trained,
        "average": 0 if config.ema_decay is None else 4 * trained,
        "activations": WORKSPACE * worst.activations,
    }
    needed = sum(parts.values())
    listed = ", ".join(f"{name} {size / 1e9:,.2f}" for name, size in parts.items() if size)
    yield (
        f"memory, estimated: {needed / 1e9:,.1f} GB a process without sharding ({listed}); most in passes of "
        f"{micro} x {batch.frames} frames of {batch.width}x{batch.height}"
    )
    cuda = plan.device.type == "cuda"
    free = torch.cuda.mem_get_info(plan.device)[0] if cuda else psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"memory: the run needs {needed / 1e9:,.1f} GB, {plan.device} has {free / 1e9:,.1f} GB free. Lower "
            "batches.micro, set gradient_checkpointing, precision bf16 or optimizer.kind adamw8bit, or train a LoRA"
        )


def disk(plan: Run) -> Iterator[str]:
    """What the run leaves on the disk; `InputError` if there is no room for it."""
    config = plan.config
    trained, values = sizes(plan.parts)
    per_value = 4 + (2 if config.optimizer.kind == "adamw8bit" else 8) + (0 if config.ema_decay is None else 4)
    states = config.saving.keep_last + config.saving.keep_best + 1  # one is being written
    needed = states * per_value * trained + (4 * trained if config.lora else 2 * values)
    place = Path(config.output).expanduser().absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    yield f"disk: {needed / 1e9:,.2f} GB for {states} states and the result, {free / 1e9:,.1f} GB free at {place}"
    if needed > free:
        raise InputError(
            f"disk: {needed / 1e9:,.2f} GB are needed at {place}, {free / 1e9:,.2f} GB are free. Make room, give "
            "another output, or lower saving.keep_last"
        )


def duration(plan: Run, measured: bool) -> Iterator[str]:
    """How long the run takes: from timed passes if the model is small and `measured`, else from its arithmetic."""
    config, unet = plan.config, plan.parts.model.unet
    repeats = 4 if config.gradient_checkpointing else 3  # the backward pass is twice the forward pass
    total = samples = 0.0
    for batch, steps, micro, found in plan.kinds:
        passes = steps * batch.size / micro
        encoding = 0 if config.cache else encoding_cost(plan.parts, batch, micro)
        total += passes * (repeats * found.operations + encoding)
        samples += steps * batch.size
    yield f"work: {config.steps:,} steps, {samples:,.0f} samples, {total / 1e15:,.1f} PFLOP in all"
    processes = f" by {plan.world} processes" if plan.world > 1 else ""
    if measured and sum(p.numel() for p in unet.parameters()) <= SMALL:
        seconds = timed(config, [kind[:3] for kind in plan.kinds], plan.device) / plan.world
        yield f"time, from timed passes on {plan.device}: about {span(seconds)}{processes}"
        return
    speed = EFFICIENCY * product_speed(plan.device, HALF[config.precision] or torch.float32)
    where = f"at {EFFICIENCY:.0%} of the speed of a matrix product"
    yield f"time, from the arithmetic {where} on {plan.device}: about {span(total / speed / plan.world)}{processes}"
    if plan.device.type != "cuda":
        yield f"time on one A100 in bf16, {where}: about {span(total / (EFFICIENCY * A100))}"


def kinds_of(config: TrainConfig, parts: Parts, world: int) -> list[tuple[Batches, float, int, Cost]]:
    """Each kind of batch with its expected steps, clips a pass, and the cost of a pass."""
    unet, factor = parts.model.unet, parts.autoencoder.factor
    with_mask = not unet.config.is_inpainting and any(getattr(config.loss, name) for name in MASK_PARTS)
    trained, known, kinds = trained_layers(unet), {}, []
    for batch, steps in zip(config.batches, expected_steps(config)):
        micro = batch.micro or max(1, batch.size // world)
        latents = micro, batch.frames, batch.height // factor, batch.width // factor
        if latents not in known:
            shape = (latents, parts.model.text_encoder.max_length, config.precision, config.gradient_checkpointing)
            known[latents] = cost(unet.config, *shape, with_mask, trained)
        found = Cost(0, 0) if batch.only else known[latents]
        if config.request_encoder is not None:
            how = config.precision, config.gradient_checkpointing, batch.only == "sight"
            said = language_cost(parts.model.request_encoder, micro, *how)
            found = Cost(found.activations + said.activations, found.operations + said.operations)
        kinds.append((batch, steps, micro, found))
    return kinds


def expected_steps(config: TrainConfig) -> list[float]:
    """How many steps each kind of batch has in the mean over seeds."""
    edges = {0, config.steps}
    for batch in config.batches:
        edges |= {edge for edge in (batch.start, batch.end) if edge is not None and edge < config.steps}
    steps = [0.0] * len(config.batches)
    for first, last in zip(sorted(edges), sorted(edges)[1:]):
        shares = [batch.share * batch.covers(first) for batch in config.batches]
        steps = [count + (last - first) * share / sum(shares) for count, share in zip(steps, shares)]
    return steps


def encoding_cost(parts: Parts, batch: Batches, micro: int) -> int:
    """Floating-point operations of encoding the video and the clean video of a pass."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        parts.autoencoder.moments(torch.empty(1, 3, batch.height, batch.width, device="meta"))
    return 2 * micro * batch.frames * counter.get_total_flops()


def sizes(parts: Parts) -> tuple[int, int]:
    """How many values train, and how many all networks have, the frozen text encoder among them."""
    trained = sum(p.numel() for p in parts.model.parameters() if p.requires_grad)
    return trained, sum(p.numel() for p in all_of(parts))


def stored(parts: Parts) -> int:
    """Bytes of the values of all networks."""
    return sum(p.numel() * p.element_size() for p in all_of(parts))


def all_of(parts: Parts) -> list[torch.nn.Parameter]:
    """The parameters of all networks, each once."""
    networks = (parts.model, parts.model.text_encoder, parts.autoencoder)
    return list({id(p): p for network in networks for p in network.parameters()}.values())

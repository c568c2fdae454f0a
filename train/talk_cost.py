"""What a pass of the language model costs in memory and arithmetic, estimated from its sizes."""

from __future__ import annotations

from lgvi_core.models import RequestEncoder

from .footprint import HALF, Cost

SAID = 200  # tokens of a conversation, the picture left out
STATES, INSIDE = 12, 4  # values kept of a token in each layer: times the width, and times that of the feed-forward part


def language_cost(encoder: RequestEncoder, micro: int, precision: str, checkpointing: bool, looks_only: bool) -> Cost:
    """Of one pass of `micro` conversations; where it `looks_only`, of the vision tower alone."""
    llava = encoder.llava.model
    parts = {"vision_tower": llava.vision_tower, "language_model": llava.language_model}
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    tokens = {"vision_tower": encoder.image_tokens + 1, "language_model": encoder.image_tokens + SAID}
    operations = kept = 0
    width = 4 if HALF[precision] is None else 2
    for name in ("vision_tower",) if looks_only else tuple(sizes):
        config = encoder.llava.config.vision_config if name == "vision_tower" else encoder.llava.config.text_config
        operations += 2 * micro * tokens[name] * sizes[name]
        inner = getattr(config, "intermediate_size", 4 * config.hidden_size)
        layer = micro * tokens[name] * width * (STATES * config.hidden_size + INSIDE * inner)
        layers = config.num_hidden_layers
        trains = name == "language_model" or any(p.requires_grad for p in llava.vision_tower.parameters())
        if trains:
            inputs = layers * micro * tokens[name] * width * config.hidden_size
            kept += layer + inputs if checkpointing else layers * layer
    return Cost(kept, operations)

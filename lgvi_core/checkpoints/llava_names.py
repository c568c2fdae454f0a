"""The names of LLaVA's weights: in its own layout, in LGVI-I's three-part file, and in transformers then and now."""

from __future__ import annotations

Table = tuple[tuple[str, str], ...]  # how a name begins there, and in today's transformers; the first that fits counts

TEXT, VISION, PROJECTOR = "model.language_model.", "model.vision_tower.", "model.multi_modal_projector."
EMBEDDING = TEXT + "embed_tokens.weight"
HEAD = "head."  # LGVI-I's, beside LLaVA

PARTS: Table = (  # llava_weights.pth
    ("language_embedding.", TEXT + "embed_tokens."),
    ("vision_embedding.0.", PROJECTOR + "linear_1."),
    ("vision_embedding.2.", PROJECTOR + "linear_2."),
    ("transfer_layer.", HEAD),
)
PUBLIC: Table = (  # LLaVA's own
    ("model.mm_projector.0.", PROJECTOR + "linear_1."),
    ("model.mm_projector.2.", PROJECTOR + "linear_2."),
    ("model.vision_tower.vision_tower.vision_model.", VISION),
    ("lm_head.", "lm_head."),
    ("model.", TEXT),
)
TRANSFORMERS: Table = (  # of every version, and CLIP's own file
    (VISION + "vision_model.", VISION),
    *((name, name) for name in (TEXT, VISION, PROJECTOR)),
    ("language_model.model.", TEXT),
    ("language_model.lm_head.", "lm_head."),
    ("multi_modal_projector.", PROJECTOR),
    ("vision_tower.vision_model.", VISION),
    ("vision_tower.", VISION),
    ("vision_model.", VISION),
)
ANY: Table = (*PUBLIC[:3], *TRANSFORMERS, *PUBLIC[3:])
TABLES = (".rotary_emb.inv_freq", ".position_ids", ".relative_position_index")  # what transformers computes itself


def todays_name(name: str, table: Table = ANY) -> str | None:
    """A weight's name in today's transformers, whichever layout it is from; None for what is computed, not stored."""
    if name.endswith(TABLES):
        return None
    return next((today + name.removeprefix(old) for old, today in table if name.startswith(old)), name)


def public_name(name: str, table: Table = PUBLIC) -> str | None:
    """The name in LLaVA's own layout, or another's, of a weight in today's transformers; None if it is not in it."""
    return next((old + name.removeprefix(today) for old, today in table if name.startswith(today)), None)

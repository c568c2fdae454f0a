"""How much of a task vector is added to each part of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import InputError
from .model_parts import PARTS


@dataclass(frozen=True)
class Strength:
    """A factor of a task vector, for each part of the model."""

    unet: float
    text: float
    vae: float

    @classmethod
    def of(cls, everywhere: float, **parts: float) -> Strength:
        return cls(**{part: float(parts.get(part, everywhere)) for part in PARTS})

    @classmethod
    def parse(cls, text: str) -> Strength:
        """From "0.8", "0.8,text=1" or "unet=0.8,text=1,vae=1"; `InputError` for anything else."""
        everywhere, parts = None, {}
        for item in text.split(","):
            name, _, number = item.rpartition("=")
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            name = name.strip()
            if not math.isfinite(value) or name in parts or (name not in PARTS if name else everywhere is not None):
                raise InputError(
                    f"{text!r} is no strength: give a number such as 0.8, or one for a part as in 0.8,text=1 (parts: "
                    f"{', '.join(PARTS)})"
                )
            if name:
                parts[name] = value
            else:
                everywhere = value
        absent = [part for part in PARTS if part not in parts]
        if everywhere is None and absent:
            raise InputError(f"{text!r} says nothing of {', '.join(absent)}: put a number for them in front: 1,{text}")
        return cls.of(everywhere, **parts)

    def __str__(self) -> str:
        values = {part: getattr(self, part) for part in PARTS}
        if len(set(values.values())) == 1:
            return f"{self.unet:g}"
        return ",".join(f"{part}={value:g}" for part, value in values.items())


ONE = Strength.of(1.0)

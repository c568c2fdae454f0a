"""The engine's remarks on single samples are many, and of no use in an evaluation."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def only_errors() -> Iterator[None]:
    """While it lasts, `lgvi_core` logs errors alone."""
    logger = logging.getLogger("lgvi_core")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)

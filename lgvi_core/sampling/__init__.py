"""Sampling: guidance, the denoising loop, schedulers, and windows over long clips."""

from .denoise import Denoised, denoise
from .schedulers import SCHEDULERS, make_scheduler

__all__ = ["SCHEDULERS", "Denoised", "denoise", "make_scheduler"]

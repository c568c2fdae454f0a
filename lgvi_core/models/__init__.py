"""The networks: the inflated U-Net, the mask decoder, the text encoder and the autoencoders."""

from .config import UNetConfig
from .unet import InflatedUNet

__all__ = ["InflatedUNet", "UNetConfig"]

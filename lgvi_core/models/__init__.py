"""The networks: the inflated U-Net, the mask decoder, the text and request encoders and the autoencoders."""

from .config import UNetConfig
from .request_encoder import RequestEncoder
from .unet import InflatedUNet

__all__ = ["InflatedUNet", "RequestEncoder", "UNetConfig"]

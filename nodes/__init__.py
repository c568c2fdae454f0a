"""The nodes, one file each."""

from comfy_api.latest import ComfyExtension, io

from .condition_encode import ConditionEncode
from .guider import ThreeWayGuider
from .keyframe_propagate import KeyframePropagate
from .loader import LoadLGVI
from .mask_decoder_preview import MaskDecoderPreview
from .mask_shape import MaskShape
from .pick_frames import PickFrames
from .request_reader import LoadRequestReader
from .request_to_prompt import RequestToPrompt
from .sampler import DDIMSampler
from .task_vector_merge import TaskVectorMerge
from .video_inpaint_sampler import VideoInpaintSampler

NODES: list[type[io.ComfyNode]] = [
    LoadLGVI,
    RequestToPrompt,
    VideoInpaintSampler,
    MaskDecoderPreview,
    ConditionEncode,
    ThreeWayGuider,
    DDIMSampler,
    TaskVectorMerge,
    MaskShape,
    PickFrames,
    KeyframePropagate,
    LoadRequestReader,
]


class Extension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES

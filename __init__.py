"""LGVI for ComfyUI: language-driven video inpainting as a node pack."""

WEB_DIRECTORY = "./js"


async def comfy_entrypoint():
    from .nodes import Extension

    return Extension()

"""Language-driven video inpainting: the engine. Plain torch; nothing here imports ComfyUI."""

__version__ = "0.1.0"

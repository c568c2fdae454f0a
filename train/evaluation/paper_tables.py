"""What the LGVI paper (arXiv 2401.10226) reports on ROVI's test set: tables 2 to 4.

(method, PSNR, SSIM, VFID, E_warp x 10^-2). The paper's VFID is what `vfid_paper` computes; its flow was FlowNet2's.
"""

from __future__ import annotations

COLUMNS = ("PSNR", "SSIM", "VFID", "E_warp ×10⁻²")
TABLES = {
    "Table 2, referring video inpainting": (
        ("InstructPix2Pix", 18.12, 0.600, 0.361, 1.343),
        ("Inst-Inpaint", 19.00, 0.896, 0.310, 1.206),
        ("MagicBrush", 20.39, 0.725, 0.310, 0.934),
        ("Inpaint Anything*", 22.84, 0.728, 0.283, 0.874),
        ("LGVI", 22.85, 0.756, 0.308, 0.901),
    ),
    "Table 3, interactive video inpainting": (
        ("InstructPix2Pix", 16.53, 0.558, 0.391, 1.789),
        ("Inst-Inpaint", 18.96, 0.702, 0.314, 1.047),
        ("MagicBrush", 20.46, 0.728, 0.311, 0.901),
        ("Inpaint Anything*", 20.64, 0.664, 0.312, 1.182),
        ("LGVI", 20.70, 0.707, 0.332, 1.191),
        ("MagicBrush + MLLM", 20.37, 0.726, 0.313, 1.004),
        ("Inpaint Anything* + MLLM", 21.37, 0.722, 0.291, 0.875),
        ("LGVI + MLLM", 21.45, 0.738, 0.311, 0.923),
        ("LGVI-I", 22.24, 0.732, 0.299, 0.867),
    ),
    "Table 4, ablations": (
        ("without tuning the whole U-Net", 20.53, 0.607, 0.370, 1.101),
        ("without mask supervision", 21.80, 0.631, 0.358, 1.059),
        ("without U-Net video inflation", 22.08, 0.754, 0.356, 1.017),
        ("without image joint training", 22.39, 0.728, 0.297, 0.987),
        ("LGVI", 22.85, 0.756, 0.308, 0.901),
    ),
}


def as_json() -> dict[str, list[dict]]:
    """The tables as plain values."""
    keys = ("method", "psnr", "ssim", "vfid_paper", "e_warp")
    return {title: [dict(zip(keys, row)) for row in rows] for title, rows in TABLES.items()}

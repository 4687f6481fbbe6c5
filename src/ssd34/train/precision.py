"""What a processor computes in."""

from __future__ import annotations

import torch

from ssd34.machine import this_cpu


def computes_bf16(device: torch.device) -> bool:
    """Whether bf16 is arithmetic of the processor, and not emulated, which is slow."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool((this_cpu().features or {}).get("bf16"))

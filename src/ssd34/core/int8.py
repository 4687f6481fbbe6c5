"""The steps that int8 files and quantization-aware training both keep parameters in."""

LARGEST_WEIGHT = 127
"""Weights are -127 to 127 steps."""

LARGEST_NARROW_WEIGHT = 64
"""Weights of 7 bits are -64 to 64 steps: two of their products with bytes add up within 16 bits."""

LARGEST_BIAS = 2.0**30
"""Steps; leaves the other half of int32 to the sum of products."""

"""NVIDIA FLARE as the engine of a deployment.

NVFlare's API is used in `controller`, `executor` and `submit` only, which its processes import.
"""

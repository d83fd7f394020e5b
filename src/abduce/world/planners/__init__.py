"""Planners: kernels that make actions cheaper step by step, batched over starts."""

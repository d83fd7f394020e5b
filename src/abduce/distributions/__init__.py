"""Distributions: modules hold parameters and return plain distribution objects."""

"""Fit one generative model to unlabelled data, then ask it anything."""

__version__ = "0.1.0"

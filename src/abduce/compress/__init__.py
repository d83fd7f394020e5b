"""Lossless compression of rows by a fitted model."""

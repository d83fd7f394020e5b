"""Fitting: the training loop, and what it minimises, a family of objectives a file."""

"""Sequences of steps that are vectors of cells: the law of the next step as a chain over its cells, and inference with it."""

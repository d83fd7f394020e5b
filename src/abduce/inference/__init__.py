"""Inference: drawing from and integrating over what is not known, by importance sampling and Markov chains."""

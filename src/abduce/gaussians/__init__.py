"""Mixtures of Gaussians under each structure of covariance, and how they are fitted."""

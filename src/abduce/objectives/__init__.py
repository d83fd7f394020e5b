"""Objectives: how an energy is shaped by data."""

"""Answers about tables too large for memory, or in many files, written a file at a time."""

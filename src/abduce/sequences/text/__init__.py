"""Texts as sequences of symbols: counts of n-grams, the Kneser-Ney law of the next one, and inference given both sides."""

"""Texts as sequences of symbols: counts of n-grams, the Kneser-Ney law, its adaptive forms, and inference between both sides."""

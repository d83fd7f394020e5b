"""What a fitted model infers from what was seen of rows."""

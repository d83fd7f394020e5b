"""Series: rows with a time axis, whose blanks may lie anywhere, the future among them."""

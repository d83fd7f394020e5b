"""What comes in and goes out: kinds of columns and pixels, readers, masks, examples."""

"""Score maps of a split, their parts, and predictions for images."""

"""From images and labels to reviewed boxes: `wsolkit annotate`. No torch but where a network runs."""

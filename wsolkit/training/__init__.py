"""Training with image labels only: recipe, loop, checkpoints, and what an objective is."""

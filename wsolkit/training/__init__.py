"""Training with image labels only: recipe, loop, checkpoints, and what an objective is.

Here the names of the files that a training run leaves, for those who read them without torch."""

WEIGHTS, CHECKPOINT, EARLIER = "best.pt", "last.pt", "previous.pt"
HISTORY = "history.csv"
HISTORY_COLUMNS = ("epoch", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "seconds")

"""Where runs live: the run folder, rows of loggers, W&B; and the loaders of runs from them."""

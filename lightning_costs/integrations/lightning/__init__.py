"""PyTorch Lightning: the callbacks, the hooks into a Trainer, entry points of `lightning-costs run`."""

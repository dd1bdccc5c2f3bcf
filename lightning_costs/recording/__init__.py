"""A run in progress: the recorder, its state, and the job of all ranks."""

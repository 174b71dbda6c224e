"""Training: the trainer, its step, its hooks, and how a run is set up and launched."""

"""Training from scribbles or masks: configurations, methods, the loop, and checkpoints without pickle."""

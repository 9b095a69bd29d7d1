"""Ways to learn from scribbles or masks: one file a method, all with the interface of `method.Method`."""

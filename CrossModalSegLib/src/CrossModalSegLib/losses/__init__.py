"""Training losses: scribble supervision, regularisation and consistency."""

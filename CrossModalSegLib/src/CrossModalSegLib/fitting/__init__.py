"""Fitting one case from its scribbles: prompts, the prior that ships, and the fit itself."""

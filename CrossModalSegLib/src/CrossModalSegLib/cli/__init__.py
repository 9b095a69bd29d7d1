"""The command line: one file a command, each with its typed arguments and a `run`."""

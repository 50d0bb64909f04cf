"""The configuration document and the environment, read once at the start."""

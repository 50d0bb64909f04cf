"""The configuration document, parsed and checked, and the environment, which is read once at the start."""

"""The configuration document and the environment."""

"""The operations of the API, one module per family. `routes.py` maps paths to operations."""

"""The operations of the API, a family a module; `routes.py` is the table of their paths."""

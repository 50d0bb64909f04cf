"""Tollgate's core: one module a stage; `gateway.py` is the path of a request."""

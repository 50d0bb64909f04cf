"""Tollgate's core: `gateway.py` is the path of a request, each package one stage of it."""

__version__ = "0.1.0"

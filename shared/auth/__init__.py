"""Authenticate: the keys and consumers behind a request, and the caller's network address."""

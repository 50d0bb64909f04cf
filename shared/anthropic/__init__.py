"""Anthropic's Messages API on the wire: paths, requests, event streams, and the shape of errors. No I/O, no clock."""

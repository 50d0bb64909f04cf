"""Respond: the bytes that a caller receives, keep-alive comments, and errors in OpenAI's shape."""

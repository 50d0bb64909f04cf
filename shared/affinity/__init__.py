"""Stateful objects: the backend that holds each one, and the consumer that owns it."""

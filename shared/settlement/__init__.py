"""Settles the usage of work that goes on after its call."""

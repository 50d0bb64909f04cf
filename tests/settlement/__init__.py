"""Tests of the settlement of pending work."""

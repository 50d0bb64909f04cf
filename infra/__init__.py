"""Bicep, and the scripts of a deployment."""

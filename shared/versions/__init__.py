"""Versions of the configuration: sections that operators put over the base document, and the looks for newer ones."""

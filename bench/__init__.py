"""Measures the gateway beside a bare forwarder on the same upstream, in one run: `make bench`."""

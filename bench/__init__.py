"""Benchmarks. `make bench` compares the gateway with a bare forwarder; `make help` lists the others."""

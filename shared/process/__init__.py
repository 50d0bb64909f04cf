"""One process of the gateway: its stages for each configuration, and what it does besides answering calls."""

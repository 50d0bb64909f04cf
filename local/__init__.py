"""The local run: `make run` starts Azurite, the simulator and the gateway together. Nothing here is deployed."""

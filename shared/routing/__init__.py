"""Route: the order of the deployments for a call, and the health and quota of each."""

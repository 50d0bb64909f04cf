"""Forward: tries, failover and hedging. The only HTTP client to the backends."""

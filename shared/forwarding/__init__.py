"""Forward: attempts, failover, hedging and shadow traffic. The only HTTP client of the backends."""

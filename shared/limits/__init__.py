"""Admit: rate limits, quotas and budgets, held as leases on table rows."""

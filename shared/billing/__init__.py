"""Cost: prices, charges, reports, FOCUS exports, provisioned capacity and reconciliation."""

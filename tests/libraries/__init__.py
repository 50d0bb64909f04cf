"""Libraries of other makers, as callers use them; `make test-clients` installs and runs them."""

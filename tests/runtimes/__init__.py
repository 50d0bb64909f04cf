"""The function app under earlier versions of Microsoft's worker library. `make test-runtimes` runs them."""

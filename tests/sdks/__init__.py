"""The versions of OpenAI's clients that callers have, as their programs use them. `make test-sdks` runs them."""

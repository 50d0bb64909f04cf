"""Parse: the caller's side of a request, which is its body, its uploads and its hang-ups."""

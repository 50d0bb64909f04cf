"""The gateway's own paths: health, readiness, the OpenAPI document, and the API for operators and callers."""

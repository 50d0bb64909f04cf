"""A fake Azure OpenAI with several regions, quotas and scripted faults, for local runs and tests."""

"""Azure OpenAI on the wire, both ways: operations, requests, answers, event streams, metering. No I/O, no clock."""

"""Moderation of two texts."""

from openai import OpenAI

with OpenAI() as client:
    answer = client.moderations.create(model="omni-moderation-latest", input=["Good morning.", "Good night."])
    print([result.flagged for result in answer.results])

"""A response in the background: for answers that take longer than a connection without a word lasts (230 seconds)."""

from openai import OpenAI

with OpenAI() as client:
    begun = client.responses.create(model="o4-mini", input="Think about it.", background=True)
    print(begun.status)

    # Whoever was cut off takes up the stream behind the last event that came.
    for event in client.responses.retrieve(begun.id, stream=True, starting_after=0):
        print(event.sequence_number, event.type)
    done = client.responses.retrieve(begun.id)
    print(done.status, done.output_text)

"""A background response, for answers that take longer than the idle timeout of a connection (230 seconds)."""

from openai import OpenAI

with OpenAI() as client:
    started = client.responses.create(model="gpt-5.4-mini", input="Think about it.", background=True)
    print(started.status)

    # After a disconnect, resume the stream after the last event received.
    for event in client.responses.retrieve(started.id, stream=True, starting_after=0):
        print(event.sequence_number, event.type)
    done = client.responses.retrieve(started.id)
    print(done.status, done.output_text)

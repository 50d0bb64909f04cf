"""Speech as a stream of bytes, and its transcript as a stream of events."""

from openai import OpenAI

with OpenAI() as client:
    with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="alloy", input="The toll is paid at every gate.", response_format="wav"
    ) as spoken:
        sound = b"".join(spoken.iter_bytes())
    print(len(sound), "bytes of sound")

    for event in client.audio.transcriptions.create(
        model="gpt-4o-mini-transcribe", file=("speech.wav", sound, "audio/wav"), stream=True
    ):
        if event.type == "transcript.text.delta":
            print(event.delta, end="", flush=True)
    print()

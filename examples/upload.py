"""A large file, uploaded in parts and downloaded as a stream."""

from openai import OpenAI

PART = b"a line of the log\n" * 100_000
PARTS = 3

with OpenAI() as client:
    upload = client.uploads.create(
        filename="log.txt", purpose="user_data", bytes=len(PART) * PARTS, mime_type="text/plain"
    )
    ids = [client.uploads.parts.create(upload.id, data=PART).id for _ in range(PARTS)]
    done = client.uploads.complete(upload.id, part_ids=ids)
    assert done.file is not None
    with client.files.with_streaming_response.content(done.file.id) as content:
        print(sum(len(piece) for piece in content.iter_bytes()), "bytes downloaded")
    client.files.delete(done.file.id)

"""A code interpreter container: upload a file and download it."""

from openai import OpenAI

with OpenAI() as client:
    container = client.containers.create(name="example")
    file = client.containers.files.create(container.id, file=("numbers.csv", b"1,2,3\n"))
    print([item.path for item in client.containers.files.list(container.id)])
    print(client.containers.files.content.retrieve(file.id, container_id=container.id).text)
    client.containers.delete(container.id)

"""A connection to the server, as one browser tab has it."""

import pytest


@pytest.fixture
def client(server):
    """Queues graphs on the real server and receives the events about them: see `host_server.Client`."""
    from host_server import Client

    client = Client(server)
    yield client
    client.close()

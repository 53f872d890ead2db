"""The guard of conftest.py itself: the suite cannot reach the network unnoticed."""

import socket
import urllib.request

import pytest


@pytest.mark.parametrize('address', [('192.0.2.1', 80), ('example.org', 80)])
@pytest.mark.parametrize('method', ['connect', 'connect_ex'])
def test_the_world_is_out_of_reach(address, method):
    with socket.socket() as client:
        client.settimeout(1)
        with pytest.raises(RuntimeError, match='tests run offline'):
            getattr(client, method)(address)


def test_urllib_is_stopped_too():
    with pytest.raises(RuntimeError, match='tests run offline'):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open('http://192.0.2.1/', timeout=1)


def test_this_machine_is_in_reach():
    with socket.create_server(('127.0.0.1', 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()

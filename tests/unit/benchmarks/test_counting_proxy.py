"""The socket that passes bytes on and counts them."""

import socket
import threading

from benchmarks.counting_proxy import CountingProxy


def test_bytes_pass_in_both_directions_and_are_counted():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection = listener.accept()[0]
            with connection:
                while data := connection.recv(100):
                    connection.sendall(data.upper())

        thread = threading.Thread(target=answer)
        thread.start()
        with CountingProxy(listener.getsockname()[1]) as proxy:
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as connection:
                connection.sendall(b"seven b")
                received = b""
                while len(received) < 7:
                    received += connection.recv(100)
                connection.shutdown(socket.SHUT_WR)
                assert received == b"SEVEN B"
                assert connection.recv(100) == b""
            assert proxy.count == 14
        thread.join(30)
        assert not thread.is_alive()

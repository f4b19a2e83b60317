"""Whether a task is there, and whether it is alive, without TensorFlow's help."""

import socket


def is_listening(address: str) -> bool:
    """Whether somebody accepts connections there."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1.0):
            return True
    except OSError:
        return False


def answers(address: str, timeout_seconds: float = 2.0) -> bool:
    """Whether TensorFlow's server there is alive: it greets who speaks HTTP/2, which a stopped process does not."""
    greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # and an empty SETTINGS frame
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout_seconds) as connection:
            connection.sendall(greeting)
            return bool(connection.recv(1))
    except OSError:
        return False

"""Whether a process is there, and whether it is alive, without TensorFlow's help.

A process that is stopped, or whose machine is, does not answer; its kernel still accepts connections for it.
"""

import socket

_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # HTTP/2, and an empty SETTINGS frame
_LONGEST_ANSWER_BYTES = 256


def is_listening(address: str) -> bool:
    """Whether a process accepts connections at the address."""
    try:
        with _connect(address, 1.0):
            return True
    except OSError:
        return False


def answers(address: str, timeout_seconds: float = 2.0) -> bool:
    """Whether TensorFlow's server at the address is alive: it greets who speaks HTTP/2."""
    return bool(ask(address, _HELLO, timeout_seconds))


def ask(address: str, question: bytes = b"", timeout_seconds: float = 2.0) -> bytes:
    """The first bytes that the process at the address answers to a question; empty when none answers."""
    try:
        with _connect(address, timeout_seconds) as connection:
            connection.sendall(question)
            return connection.recv(_LONGEST_ANSWER_BYTES)
    except OSError:
        return b""


def _connect(address: str, timeout_seconds: float) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout_seconds)

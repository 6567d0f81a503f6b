"""A way to a server on which all comes from another address, as from another machine."""

import socket
import threading
from contextlib import contextmanager, suppress

OTHER = "127.0.0.2"  # Linux takes all of 127.0.0.0/8 as its own


@contextmanager
def relayed(address):
    """A port of this machine behind which is `address`, asked from OTHER."""
    host, _, port = address.rpartition(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener, (host, int(port))), daemon=True).start()
        yield listener.getsockname()[1]


def _serve(listener, address):
    with suppress(OSError):  # closed: it is over
        while True:
            near, _ = listener.accept()
            threading.Thread(target=_join, args=(near, address), daemon=True).start()


def _join(near, address):
    with near, socket.create_connection(address, source_address=(OTHER, 0)) as far:
        back = threading.Thread(target=_pump, args=(far, near), daemon=True)
        back.start()
        _pump(near, far)
        back.join()


def _pump(one, other):
    with suppress(OSError):
        while data := one.recv(1 << 16):
            other.sendall(data)
    with suppress(OSError):
        other.shutdown(socket.SHUT_WR)

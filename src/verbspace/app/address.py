"""The address on which the servers listen."""

from __future__ import annotations

import os
import socket


def validate_address(host: str, port: int) -> None:
    """Raise ValueError if this machine cannot listen on an address, for example because the port is in use."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise ValueError(f"{host}:{port}: {reason}; choose another --port, or another --host") from None

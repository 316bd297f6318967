"""Whether a Ray cluster answers at an address, before Ray is asked to join it.

Where nothing answers, Ray tries for minutes and may then end the process (`gcs_rpc_server_reconnect_timeout_s`, which
it reads from the environment as it is imported). A connection of our own tells that in seconds.
"""

from __future__ import annotations

import os
import re
import socket
from typing import Any

from channelcut.core.errors import UserError

PATIENCE_S = 10.0  # for a connection, and for what the other side says first
AUTO, LOCAL = "auto", "local"
_CLIENT = "ray://"
_CLIENT_PORT = 10001
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # of HTTP/2, with no settings
_SETTINGS = 4  # the type of the frame that answers it
_EXPECTED = (
    "Expected the address of a running cluster, HOST:PORT as `ray start --head` prints it (port 6379 where none is "
    "given there), or none for this machine alone. Start the cluster, or put the address right: --ray-address, "
    "ray_address= in Python."
)


def check_cluster(address: Any) -> None:
    """Refuse an address at which no cluster answers; one that Ray has to find by itself (`auto`) is looked up first.

    Args:
        address: as `ray.init` takes it: `HOST:PORT`, `ray://HOST:PORT`, `auto` or `local`.

    Raises:
        UserError: it is no address, its host is not known, nothing answers there, or what answers is not Ray.
    """
    if not isinstance(address, str) or not address.strip():
        raise UserError(f"The address of the Ray cluster is {address!r}. {_EXPECTED}")
    found = _looked_up(address.strip())
    if found is None:
        return
    plain = found.removeprefix(_CLIENT)
    said = re.fullmatch(r"(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:/\s]+))(?::(?P<port>\d{1,5}))?", plain)
    port = int(said["port"] or (_CLIENT_PORT if plain != found else 0)) if said else 0
    if said is None or not 0 < port < 1 << 16:
        raise UserError(f"{found!r} is no address of a Ray cluster. {_EXPECTED}")
    named = found if found == address else f"{found} (which {address!r} stands for)"
    try:
        with socket.create_connection((said["six"] or said["host"], port), PATIENCE_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("0", "", "false"):
                _check_answer(connection, named)
    except OSError as problem:
        raise UserError(f"No Ray cluster answers at {named}: {_words(problem)}. {_EXPECTED}") from problem


def _looked_up(address: str) -> str | None:
    """The address that is meant; None where Ray starts a cluster, or says by itself that it finds none."""
    if address == LOCAL:
        return None
    if address != AUTO:
        return address
    if said := os.environ.get("RAY_ADDRESS"):
        return _looked_up(said) if said != AUTO else None
    try:
        from ray._private.services import canonicalize_bootstrap_address

        found: str | None = canonicalize_bootstrap_address(AUTO)
    except (ImportError, OSError, RuntimeError, ValueError):  # no cluster, or another release: `ray.init` says so
        return None
    return found


def _check_answer(connection: socket.socket, named: str) -> None:
    """Refuse what does not speak HTTP/2, which is what Ray's servers do: the dashboard's port, say."""
    connection.settimeout(PATIENCE_S)
    connection.sendall(_HELLO)
    start = b""
    while len(start) < 4 and (more := connection.recv(4 - len(start))):
        start += more
    if len(start) < 4 or start[3] != _SETTINGS:
        raise UserError(
            f"What answers at {named} is no Ray cluster, or not the port that takes in drivers (8265, say, is that of "
            f"the dashboard). {_EXPECTED}"
        )


def _words(problem: OSError) -> str:
    """What went wrong with a connection."""
    if isinstance(problem, socket.gaierror):
        return "its host name is not known"
    if isinstance(problem, TimeoutError):
        return f"no answer within {PATIENCE_S:.0f} s"
    return (problem.strerror or str(problem)).lower()

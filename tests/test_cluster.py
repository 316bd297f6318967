"""A Ray cluster that is not there is one paragraph within seconds."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from channelcut.core import cluster
from channelcut.core.cluster import check_cluster
from channelcut.core.crew import RayCrew
from channelcut.core.errors import UserError

SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@contextmanager
def answering(said: bytes | None) -> Iterator[int]:
    """The port of a server that takes one connection; it says this and hangs up, or with None says nothing."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            server.settimeout(2)
            try:
                connection, _ = server.accept()
            except TimeoutError:  # nobody came
                return
            with connection:
                connection.recv(64)
                if said is None:
                    done.wait(10)
                else:
                    connection.sendall(said)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            done.set()
            thread.join()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_where_nothing_answers_it_is_said() -> None:
    address = f"127.0.0.1:{closed_port()}"
    for given in (address, f"ray://{address}"):
        with pytest.raises(
            UserError, match=rf"No Ray cluster answers at {given}: connection refused\. Expected"
        ) as error:
            check_cluster(given)
        assert "`ray start --head` prints" in str(error.value) and "--ray-address" in str(error.value)


def test_a_host_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UserError, match="No Ray cluster answers at head:6379: its host name is not known"):
        check_cluster("head:6379")


def test_who_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PATIENCE_S", 0.2)
    with answering(None) as port, pytest.raises(UserError, match="no answer within"):
        check_cluster(f"127.0.0.1:{port}")


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["dashboard", "hangs up"])
def test_who_is_no_cluster_is_told_apart(said: bytes) -> None:
    with answering(said) as port, pytest.raises(UserError, match=f"at 127.0.0.1:{port} is no Ray cluster"):
        check_cluster(f"127.0.0.1:{port}")


def test_a_cluster_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    for form in ("127.0.0.1:{}", "localhost:{}", "ray://127.0.0.1:{}"):
        with answering(SETTINGS) as port:
            check_cluster(form.format(port))
    with answering(SETTINGS) as port:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        check_cluster("auto")
    check_cluster("local")  # Ray starts one


def test_auto_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port()}")
    with pytest.raises(UserError, match=r"No Ray cluster answers at 127.0.0.1:\d+ \(which 'auto' stands for\)"):
        check_cluster("auto")


@pytest.mark.parametrize("address", ["", "head", "head:", "head:abc", "head:0", "head:99999", "http://head:8265", 3])
def test_what_is_no_address(address: object) -> None:
    with pytest.raises(UserError, match=r"(is no address of a Ray cluster|The address of the Ray cluster is)"):
        check_cluster(address)


def test_a_crew_asks_before_ray_does(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = SimpleNamespace(is_initialized=lambda: False, init=lambda **_: pytest.fail("Ray was asked to join it"))
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    crew = RayCrew(lambda: lambda lot: {}, "timing layers", 1, address=f"127.0.0.1:{closed_port()}")
    with pytest.raises(UserError, match="No Ray cluster answers"), crew:
        pass


def test_without_an_address_no_cluster_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that RAY_ADDRESS names, or that was started on this machine, is not what was asked for."""
    asked: list[object] = []

    def init(address: object, **_: object) -> None:
        asked.append(address)
        raise ConnectionError("none here")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="none here"), RayCrew(lambda: lambda lot: {}, "timing layers", 1):
        pass
    assert asked == ["local"]


def test_why_ray_does_not_start_is_said_to_its_first_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        try:
            raise RuntimeError("no luck:\nTraceback (most recent call last):\n  File x\nAuthError: no token.\n")
        except RuntimeError as problem:
            raise ConnectionError("Failed to connect to it") from problem

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))  # type: ignore[arg-type]
    with answering(SETTINGS) as port:
        crew = RayCrew(lambda: lambda lot: {}, "timing layers", 1, address=f"127.0.0.1:{port}")
        with pytest.raises(UserError, match=r"Failed to connect to it: AuthError: no token\. Expected"), crew:
            pass

"""The sockets that a process begins with: those that a service manager passed, and those of an earlier process."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from attrs import evolve

from greetsvc.daemon import LISTEN_VARIABLES
from greetsvc.daemon.settings.table import Listener
from greetsvc.errors import ConfigError, reason_of
from greetsvc.net.bound import BoundTo
from greetsvc.net.endpoint import Endpoint
from greetsvc.net.sockets import adopted_socket

__all__ = ["INHERITED", "NOTHING", "STARTED_AS", "Inherited", "Passed", "from_manager", "stored_name"]

_FIRST = 3
"""The first descriptor that is passed: SD_LISTEN_FDS_START of sd_listen_fds(3)."""

_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")

STARTED_AS = "GREETSVC_STARTED_AS"
"""The variable that says what `processes.kin` started this process as; not set where somebody else did."""

INHERITED = "inherited"
"""The kind of `BoundTo` of a socket that the service manager passed; its host is the index."""

_STORED = "greetsvc-bound,"
"""How the name of a socket of our own in the manager's descriptor store begins."""


class Passed(NamedTuple):
    """A socket that the service manager passed: its descriptor, which stays open, and its name."""

    descriptor: int
    name: str = "unknown"


class Inherited(NamedTuple):
    """Sockets that were open before this process began.

    ``passed`` are those of the service manager, which listeners find by name and index. ``held`` are those that an
    earlier process of this service bound. If they are ``complete``, this process is to bind no others. If they are
    ``stored``, that process is gone: the service manager kept them, and no process serves them.
    """

    passed: tuple[Passed, ...] = ()
    held: tuple[tuple[BoundTo, socket.socket], ...] = ()
    complete: bool = False
    stored: bool = False

    def resolve(self, listeners: Iterable[Listener]) -> tuple[Listener, ...]:
        """The listeners, each with the index and the transport of its socket if it has an inherited one.

        One that names several sockets becomes several. If nothing was passed they stay as they are, as in a check.
        Raises `ConfigError` for a socket that is missing, of the wrong type, or used twice.
        """
        used: dict[int, str] = {}
        found: list[Listener] = []
        for listener in listeners:
            wanted = listener.endpoint.inherited
            if wanted is None or not self.passed:
                found.append(listener)
                continue
            which = [index for index, one in enumerate(self.passed) if wanted in {index, one.name}]
            if not which:
                known = ", ".join(f"{index} ({one.name})" for index, one in enumerate(self.passed))
                raise ConfigError(f"{listener.where}: the service manager passed no such socket, only {known}")
            for index in which:
                if index in used:
                    raise ConfigError(f"{listener.where}: socket {index} is that of {used[index]} too")
                used[index] = listener.where
                transport = self._transport(listener, self.passed[index])
                found.append(
                    evolve(listener, endpoint=evolve(listener.endpoint, inherited=index, transport=transport))
                )
        return tuple(found)

    def unused(self, listeners: Iterable[Listener]) -> list[str]:
        """A warning for each passed socket that none of the resolved listeners uses."""
        used = {listener.endpoint.inherited for listener in listeners}
        return [
            f"The service manager passed socket {index} ({one.name}), which no listener uses"
            for index, one in enumerate(self.passed)
            if index not in used
        ]

    def binding(self, wanted: int | str) -> tuple[BoundTo, Callable[[], socket.socket]]:
        """How a passed socket is known among all sockets, and what makes a duplicate of it.

        ``wanted`` is an index that `resolve` found. Raises `LookupError` for one that it did not resolve.
        """
        if not isinstance(wanted, int):
            raise LookupError(wanted)
        return BoundTo(INHERITED, str(wanted)), partial(adopted_socket, self.passed[wanted].descriptor)

    @staticmethod
    def _transport(listener: Listener, passed: Passed) -> str:
        endpoint = listener.endpoint
        try:
            with adopted_socket(passed.descriptor) as sock:
                wrong = _mismatch(endpoint, sock)
                if wrong:
                    raise ValueError(f"descriptor {passed.descriptor}, which was passed, is {wrong}")
                is_unix, is_stream = sock.family == socket.AF_UNIX, sock.type == socket.SOCK_STREAM
        except OSError as error:
            raise ConfigError(
                f"{listener.where}: descriptor {passed.descriptor}, which was passed: {reason_of(error)}"
            ) from error
        except ValueError as error:
            raise ConfigError(f"{listener.where}: {error}") from error
        if endpoint.transport == "tls":
            return "tls"
        return ("unix" if is_stream else "unixgram") if is_unix else ("tcp" if is_stream else "udp")


def _mismatch(endpoint: Endpoint, sock: socket.socket) -> str:
    """What the socket is that this endpoint cannot use; empty if it can."""
    if (endpoint.proxied or endpoint.kind != "inherited") and sock.type != socket.SOCK_STREAM:
        return f"{sock.type.name}, not SOCK_STREAM"
    if endpoint.kind == "tls" and sock.family == socket.AF_UNIX:
        return "AF_UNIX, not AF_INET or AF_INET6"
    domain = endpoint.options.get("domain")
    if domain is not None and sock.family.name != f"AF_{domain}":
        return f"{sock.family.name}, not AF_{domain}"
    return ""


NOTHING = Inherited()


def from_manager(environment: Mapping[str, str] = LISTEN_VARIABLES) -> Inherited:
    """The sockets that a service manager passed to this process (sd_listen_fds_with_names(3)).

    The variables leave the environment of this process, as they are of no use to another. Raises `ConfigError` for
    variables without sense.
    """
    for name in _VARIABLES:
        os.environ.pop(name, None)
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return Inherited()
    count, names = environment.get("LISTEN_FDS", "0"), environment.get("LISTEN_FDNAMES")
    if not re.fullmatch("[0-9]{1,4}", count):
        raise ConfigError(f"LISTEN_FDS: must be a whole number from 0 to 9999, not {count!r}")
    listed = names.split(":") if names else ["unknown"] * int(count)
    if len(listed) != int(count):
        raise ConfigError(f"LISTEN_FDNAMES: must have a name for each of {count} sockets, not {names!r}")
    passed, held = [], []
    for descriptor, name in enumerate(listed, _FIRST):
        try:
            os.set_inheritable(descriptor, False)
            bound = _stored(name)
            if bound is None:
                passed.append(Passed(descriptor, name))
            else:
                held.append((bound, adopted_socket(descriptor)))
                os.close(descriptor)
        except (OSError, ValueError) as error:
            raise ConfigError(f"LISTEN_FDS: {count}: descriptor {descriptor}: {reason_of(error)}") from error
    return Inherited(tuple(passed), tuple(held), stored=bool(held))


def stored_name(bound: BoundTo) -> str:
    """The name of a socket of our own in the manager's store (sd_pid_notify_with_fds(3)), which allows no colon."""
    host = quote(os.fsencode(bound.host))
    return f"{_STORED}{bound.kind},{bound.port},{bound.v6only:d},{host}"


def _stored(name: str) -> BoundTo | None:
    """What a socket is bound to that this service stored; None for one that it did not store."""
    if not name.startswith(_STORED):
        return None
    found = re.fullmatch(r"([a-z/0-9]+),([0-9]{1,5}),([01]),(.*)", name.removeprefix(_STORED))
    if found is None:
        raise ValueError(f"LISTEN_FDNAMES has {name!r}, which this version of greetsvc did not store")
    kind, port, v6only, host = found.groups()
    return BoundTo(kind, os.fsdecode(unquote_to_bytes(host)), int(port), v6only == "1")

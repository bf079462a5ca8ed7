"""Turns each listener of the settings into a bound socket with its protocol, ready to be served."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from attrs import field, frozen
from twisted.internet.defer import CancelledError, Deferred, execute, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from greetsvc import wire
from greetsvc.daemon.certificates import Certificates
from greetsvc.daemon.inherited import Inherited
from greetsvc.daemon.settings.table import DEFAULT_GREETING, ONCE, Listener, Settings
from greetsvc.errors import ConfigError, reason_of
from greetsvc.greeters.text import Thanks
from greetsvc.ledger import Ledger
from greetsvc.net.bound import BoundSockets, BoundTo, HeldError
from greetsvc.net.datagram.choice import udp_port
from greetsvc.net.datagram.port import DatagramPort
from greetsvc.net.endpoint import Endpoint, check_kind
from greetsvc.net.linger.sweep import Lingerers
from greetsvc.net.linux.packets import keep_syn
from greetsvc.net.sockets import MAX_BACKLOG, UnixPath, datagram_socket, unix_datagram_socket
from greetsvc.net.stream.facade import ListeningReactor
from greetsvc.net.stream.listener import StreamPort
from greetsvc.plugins import tell_failure
from greetsvc.protocols.registry import Context, made_datagrams, made_factory
from greetsvc.server.admission import Admission
from greetsvc.server.sessions import Sessions
from greetsvc.server.stream import address_of
from greetsvc.server.udp_policy import UdpPolicy
from greetsvc.visit import Address

if TYPE_CHECKING:
    from greetsvc.net.proxy.wrapper import ProxiedFactory

__all__ = [
    "DatagramListening",
    "OwnError",
    "Premises",
    "Spot",
    "StreamListening",
    "TakenError",
    "announce",
    "expiries",
    "taken",
]

_log = Logger(namespace="greetsvc")

_Made = TypeVar("_Made")


class TakenError(ConfigError):
    """Something is in the place of a socket, which may be fine for a check. ``means`` says what it means."""

    means = "by a running greetsvc or another program"


class _NotPassedError(TakenError):
    """No service manager passed the socket."""

    means = "which is no fault in a check"


class OwnError(TakenError):
    """A socket that the service has is in its place, and may be that of another listener."""

    means = "by this service itself: only a restart can replace that socket by another"


class _LeftError(TakenError):
    """The file of a socket that no process holds."""

    means = "and a start replaces it"


class Spot(NamedTuple):
    """Where a listener can be reached: a port of an address, or a path. ``transport`` may begin with ``proxy:``."""

    transport: str
    host: str
    port: int

    @classmethod
    def of(cls, endpoint: Endpoint, address: Address) -> Spot:
        """Where a port of this endpoint is."""
        return cls(f"{'proxy:' if endpoint.proxied else ''}{endpoint.transport}", *address)

    @property
    def place(self) -> str:
        """As in ``port: 8088`` or ``path: /run/greet.sock``."""
        return f"port: {self.port}" if self.port else f"path: {self.host}"

    @property
    def address(self) -> str:
        """The address as it is written before a port; empty for a path."""
        if not self.port:
            return ""
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        """As in ``udp port: 8088 ([::])``."""
        return f"{self.transport} {self.place}" + (f" ({self.address})" if self.port else "")


def announce(spot: Spot, what: str = "Server start") -> None:
    """Log where the service, or what else serves there, can be reached."""
    facts: dict[str, str | int] = {"port": spot.port, "address": spot.host} if spot.port else {"path": spot.host}
    apart = f"{spot.transport}, {spot.address}" if spot.port else spot.transport
    place, transport = spot.place, spot.transport
    _log.info("{what} at {place} ({apart})", what=what, place=place, apart=apart, transport=transport, **facts)


@frozen(eq=False)
class Premises:
    """What all listeners of one service share."""

    reactor: Any
    settings: Settings
    ledger: Ledger
    admission: Admission
    policy: UdpPolicy
    sessions: Sessions
    lingerers: Lingerers
    ipv4_tcp: Collection[int] = frozenset()
    ipv4_udp: Collection[int] = frozenset()
    samples: Mapping[int, bytes] = field(factory=dict)
    """What each greeter, by its id, said for a made-up visit."""
    replace: bool = True
    """Whether the file of a UNIX socket that no process holds is replaced."""
    sockets: BoundSockets = field(factory=BoundSockets)
    inherited: Inherited = field(factory=Inherited)
    clear: Callable[[BoundTo, Collection[socket.socket]], bool] | None = None
    """See `BoundSockets`."""
    certificates: dict[str, Certificates] = field(factory=dict)
    """Those that were read already, by the text of the endpoint; a listener takes its own out."""

    def context(self, listener: Listener) -> Context:
        """What a listener gives its protocol."""
        greeter = listener.greeter
        if listener.plugin is not ONCE and listener.greeter_option == f"text:{DEFAULT_GREETING}":
            greeter = Thanks(listener.encoding)
        return Context(
            greeter=greeter,
            encoding=listener.encoding,
            transport=listener.endpoint.transport,
            ledger=self.ledger,
            admission=self.admission,
            policy=self.policy,
            sessions=self.sessions if listener.measure else None,
            deadline=self.settings.deadline,
            linger=self.settings.linger,
            reactor=self.reactor,
        )


@implementer(IStreamServerEndpoint)
class _Endpoint:
    """Listens by one call. The module of Twisted's own endpoints imports all of TLS, a tenth of a start."""

    def __init__(self, call: Callable[[IProtocolFactory], IListeningPort]) -> None:
        self.call = call

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """See `IStreamServerEndpoint`."""
        return execute(self.call, protocolFactory)


class StreamListening:
    """One stream endpoint. It may listen on several ports; one of a plugin may listen only after a while.

    ``before`` is the listener that serves this endpoint now: its certificates are used further.
    """

    def __init__(
        self, premises: Premises, listener: Listener, before: StreamListening | DatagramListening | None = None
    ) -> None:
        self.listener = listener
        self.premises: Premises = premises
        self.contexts: Any = None
        self._warnings: list[str] = []
        if isinstance(before, StreamListening) and before.shows(listener.endpoint, premises.settings.client_ca):
            self.contexts = before.contexts
        self.factory = _made(listener, made_factory, premises)
        self._facade = ListeningReactor(
            premises.reactor,
            lingerers=premises.lingerers,
            v4_ports=premises.ipv4_tcp,
            backlog=listener.endpoint.backlog or MAX_BACKLOG,
            wrap=self._behind_proxy if listener.endpoint.proxied else None,
            prepare=keep_syn if "path" in listener.greeter.needs else None,
            dropped=premises.ledger.refuse,
            replace=premises.replace,
            shared=premises.inherited.complete,
            sockets=premises.sockets,
        )
        self._proxied: list[ProxiedFactory] = []
        self._foreign: list[IListeningPort] = []  # ports that a plugin's endpoint did not make with our facade
        self._pending: Deferred[Any] | None = None
        self._report: Callable[[ConfigError], object]
        self._announce: Callable[[Spot], object] = lambda _spot: None

    def bind(self, late: Callable[[ConfigError], object]) -> None:
        """Bind. Raises `ConfigError`; ``late`` is called with it when the endpoint fails after this has returned."""
        errors: list[ConfigError] = []
        self._report = errors.append
        try:
            endpoint = self._endpoint()
        except Exception as error:
            raise _config_error(self.listener, error) from error
        self._pending = maybeDeferred(endpoint.listen, self.factory)
        self._pending.addCallbacks(self._listens, self._fails)
        if errors:
            raise errors[0]
        self._report = late

    def _endpoint(self) -> IStreamServerEndpoint:
        endpoint, premises, facade = self.listener.endpoint, self.premises, self._facade
        ours = None
        if (passed := endpoint.inherited) is not None:
            ours = _Endpoint(lambda factory: facade.listenOn(*premises.inherited.binding(passed), factory))
        elif (path := endpoint.path) is not None:
            ours = _Endpoint(lambda factory: facade.listenUNIX(path, factory, mode=endpoint.mode))
        elif endpoint.transport == "tcp":
            where = endpoint.port or 0, endpoint.host or ""
            ours = _Endpoint(lambda factory: facade.listenTCP(where[0], factory, interface=where[1]))
        if endpoint.transport == "tls":
            from greetsvc.net.tls.endpoint import tls_endpoint  # as below: few listeners need it

            if self.contexts is None:
                read = premises.certificates.pop(endpoint.text, None)
                read = read or Certificates.read(premises.reactor, endpoint, premises.settings.client_ca)
                self.contexts, self._warnings = read.contexts, read.warnings
            return tls_endpoint(facade, endpoint, contexts=self.contexts, failed=self._tls_failed, below=ours)
        if ours is not None:
            return ours
        from twisted.internet.endpoints import serverFromString

        try:
            return cast(IStreamServerEndpoint, serverFromString(facade, endpoint.text))
        except ValueError:
            check_kind(endpoint)  # names the known ones
            raise

    def _tls_failed(self, reason: str, peer: IAddress) -> None:
        self.premises.ledger.refuse_peer(reason, peer, self.listener.endpoint.transport)

    def _behind_proxy(self, factory: IProtocolFactory) -> ProxiedFactory:
        """The factory behind PROXY headers, which count when trusted networks send them."""
        from greetsvc.daemon.proxied import CountedFactory  # few services need it

        premises = self.premises
        proxied = CountedFactory(
            factory,
            trusted=self._trusts,
            refused=premises.ledger.refuse,
            admission=premises.admission,
            reactor=premises.reactor,
        )
        proxied.ledger, proxied.transport = premises.ledger, f"proxy:{self.listener.endpoint.transport}"
        self._proxied.append(proxied)
        return proxied

    def _trusts(self, host: str) -> bool:
        address = ip_address(Address.plain(host).host.partition("%")[0])
        return any(address in network for network in self.premises.settings.trust_proxy)

    def _listens(self, port: IListeningPort) -> None:
        self._pending = None
        if port not in self._facade.ports:
            self._foreign.append(port)
        self._announce(self._spot(port))

    def _fails(self, failure: Failure) -> None:
        self._pending = None
        if not failure.check(CancelledError):
            self._report(_config_error(self.listener, failure.value))

    def begin(self, announce: Callable[[Spot], object]) -> None:
        """Accept connections from now on, and call ``announce`` with each spot, also with one that comes later."""
        self._facade.begin()
        self._announce = announce
        for spot in self.spots():
            announce(spot)

    async def stop(self, shared: Container[socket.socket] = ()) -> None:
        """Stop listening. Connections in the queue are still greeted: by others, if the socket is ``shared``."""
        if self._pending is not None:
            self._report = lambda _error: None  # the cancellation is no failure
            self._pending.cancel()
        for port in (*self._facade.ports, *self._foreign):
            if isinstance(port, StreamPort) and port.socket in shared:
                port.release()
            else:
                await maybeDeferred(port.stopListening)

    def leave_path(self) -> None:
        """Leave the file of a UNIX socket to another process."""
        for port in self._facade.ports:
            port.leave_path()

    @property
    def is_foreign(self) -> bool:
        """Whether its sockets are not ours, as those of a plugin's endpoint, so that no other can take them over."""
        return bool(self._pending or self._foreign)

    @property
    def is_busy(self) -> bool:
        """Whether one of its connections is open."""
        return self.factory.is_busy or any(proxied.awaiting for proxied in self._proxied)

    def abort(self) -> None:
        """Abort every open connection."""
        for proxied in self._proxied:
            proxied.abort()
        self.factory.abort()

    def spots(self) -> list[Spot]:
        """Where connections are accepted."""
        return [self._spot(port) for port in (*self._facade.ports, *self._foreign)]

    def _spot(self, port: IListeningPort) -> Spot:
        return Spot.of(self.listener.endpoint, address_of(port.getHost()))

    def warnings(self) -> list[str]:
        """What is wrong with its certificates, if it read them."""
        return self._warnings

    def shows(self, endpoint: Endpoint, client_ca: str | None) -> bool:
        """Whether it has the certificates of this endpoint, and asks for those of ``client_ca``."""
        same = self.listener.endpoint == endpoint and self.premises.settings.client_ca == client_ca
        return same and self.contexts is not None


class DatagramListening:
    """One UDP port or UNIX datagram socket."""

    def __init__(
        self,
        premises: Premises,
        listener: Listener,
        before: StreamListening | DatagramListening | None = None,
    ) -> None:
        self.listener = listener
        self._datagrams = _made(listener, made_datagrams, premises)
        self.protocol = self._datagrams.protocol
        self.premises = premises
        self._port: DatagramPort | None = None
        self._socket: socket.socket | None = None

    def bind(self, late: Callable[[ConfigError], object]) -> None:
        """Make the socket and its port, which reads from `begin` on. Raises `ConfigError`, and never later."""
        endpoint, protocol = self.listener.endpoint, self.protocol
        dropped = self.premises.ledger.refuse_datagram
        reactor, longest = self.premises.reactor, wire.MAX_REQUEST
        try:
            sock = self._socket = self.premises.sockets.get(*self._binding())
            if endpoint.transport == "unixgram":
                path = UnixPath(endpoint.path) if endpoint.path is not None else None
                self._port = DatagramPort(sock, protocol, reactor, longest=longest, path=path, dropped=dropped)
            else:
                self._port = udp_port(
                    sock,
                    protocol,
                    reactor,
                    longest=longest,
                    headers=self._datagrams.headers,
                    dropped=dropped,
                    batches=self._datagrams.batches,
                )
        except (CannotListenError, OSError) as error:  # the port may open a descriptor of its own
            if self._socket is not None:
                self._socket.close()
            raise _config_error(self.listener, error) from error

    def _binding(self) -> tuple[BoundTo, Callable[[], socket.socket]]:
        """What its socket is bound to, and how to make it."""
        endpoint, replace = self.listener.endpoint, self.premises.replace
        if endpoint.inherited is not None:
            return self.premises.inherited.binding(endpoint.inherited)
        if endpoint.path is not None:
            return BoundTo("unixgram", endpoint.path), partial(
                unix_datagram_socket, endpoint.path, mode=endpoint.mode, replace=replace
            )
        host, port = endpoint.host or "", endpoint.port or 0
        v6only = port in self.premises.ipv4_udp
        return BoundTo("udp", host, port, v6only), partial(datagram_socket, host, port, v6only=v6only)

    def begin(self, announce: Callable[[Spot], object]) -> None:
        """Answer from now on, and ``announce`` the spot."""
        self.premises.policy.prepare()
        if self._port is not None:
            self._port.startListening()
        for spot in self.spots():
            announce(spot)

    is_foreign = is_busy = False

    def leave_path(self) -> None:
        """Leave the file of a UNIX socket to another process."""
        if self._port is not None:
            self._port.leave_path()

    def abort(self) -> None:
        """Datagrams leave nothing open."""

    async def stop(self, shared: Container[socket.socket] = ()) -> None:
        """Listen no longer. What has arrived is answered, if ever started: by others, if the socket is shared."""
        if self._port is None:
            return
        if self._socket in shared:
            self._port.release()
        else:
            self._port.drain()
            await self._port.stopListening()

    def spots(self) -> list[Spot]:
        """Where datagrams are received."""
        if self._port is None:
            return []
        return [Spot.of(self.listener.endpoint, address_of(self._port.getHost()))]

    def warnings(self) -> list[str]:
        """Why this greeting cannot be sent to all who ask for it, where that is known before a visit."""
        if self.listener.endpoint.transport != "udp":
            return []
        greeting = self.premises.samples.get(id(self.listener.greeter), b"")
        size, verb, said = len(greeting), "answers", "the greeting"
        if set(self.listener.greeter.needs) - {"when"}:
            verb, said = "may answer", "the greeting for a made-up visit"
        if greeting.startswith(wire.MARK):
            why = f"no request: {said} begins with {wire.MARK.decode()!r}, which no answer may"
        elif size > wire.MAX_ANSWER:
            why = f"no request: {said} has {size} bytes, and an answer at most {wire.MAX_ANSWER}"
        elif size > wire.MAX_PAID_ANSWER:
            why = f"marked requests only: {said} has {size} bytes, and an answer to others {wire.MAX_PAID_ANSWER}"
        else:
            return []
        return [f"{', '.join(map(str, self.spots()))} {verb} {why}"]

    @property
    def udp_port(self) -> int:
        """The UDP port; 0 where there is none."""
        return address_of(self._port.getHost()).port if self._port is not None else 0


def _made(listener: Listener, make: Callable[[Any, Context], _Made], premises: Premises) -> _Made:
    """What a plugin makes for a listener. Raises `ConfigError`, whatever the plugin raises."""
    try:
        return make(listener.plugin, premises.context(listener))
    except Exception as error:
        tell_failure("protocol", listener.protocol_option)
        raise ConfigError(
            f"{listener.where}: the protocol {listener.protocol_option!r} cannot be made: {reason_of(error)}"
        ) from error


def expiries(listening: Iterable[StreamListening | DatagramListening]) -> dict[str, float]:
    """When the certificate for each name expires, in seconds since 1970; of several for a name the first."""
    found: dict[str, float] = {}
    for one in listening:
        if isinstance(one, StreamListening) and one.contexts is not None:
            for name, when in one.contexts.expiries.items():
                found[name] = min(when, found.get(name, when))
    return found


def taken(error: TakenError, listener: Listener, others: Iterable[Listener], *, check: bool) -> str:
    """What a check says of a listener whose place is taken.

    :raises ConfigError: when one of our ``others`` took it, or when this is no check.
    """
    ours = next((other for other in others if listener.endpoint.overlaps(other.endpoint)), None)
    if ours is not None:
        raise ConfigError(f"{error}, by {ours.where}") from error
    if isinstance(error, OwnError):
        raise ConfigError(f"{error}, {error.means}") from error
    if not check:
        raise error
    return f"{error}, {error.means}"


def _config_error(listener: Listener, error: BaseException | None) -> ConfigError:
    if isinstance(error, LookupError) and listener.endpoint.inherited is not None:
        return _NotPassedError(f"{listener.where}: the service manager passed no such socket")
    if isinstance(error, CannotListenError):
        where = f"{error.interface or 'every IPv4 address'}, port {error.port}"
        if listener.endpoint.path is not None:
            where = str(error.port)
        kinds = {errno.EADDRINUSE: TakenError, errno.EEXIST: _LeftError}
        kind = kinds.get(getattr(error.socketError, "errno", 0), ConfigError)
        if isinstance(error, HeldError):
            kind = OwnError
        return kind(f"{listener.where}: cannot listen on {where}: {reason_of(error.socketError)}")
    return ConfigError(f"{listener.where}: {reason_of(error or ValueError())}")

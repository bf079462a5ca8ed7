"""Networking parts that know nothing of greetings: sockets, listeners, transports and what they measure.

These are the public names; each is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from greetsvc._lazy import lazy_names

if TYPE_CHECKING:
    from greetsvc.net.datagram.port import DatagramPort
    from greetsvc.net.deadlines import Deadlines
    from greetsvc.net.endpoint import Endpoint, parse_endpoint
    from greetsvc.net.linger.half_close import LingeringClose
    from greetsvc.net.linger.sweep import ILingers, Lingerers
    from greetsvc.net.proxy.header import ProxyHeader, ProxyHeaderError, ProxyParser, encode_v1, encode_v2
    from greetsvc.net.proxy.wrapper import ProxiedFactory, ProxiedTransport
    from greetsvc.net.sockets import (
        UnixPath,
        datagram_socket,
        stream_socket,
        unix_datagram_socket,
        unix_stream_socket,
    )
    from greetsvc.net.stream.facade import ListeningReactor
    from greetsvc.net.stream.listener import StreamPort
    from greetsvc.net.tls.endpoint import tls_endpoint
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "greetsvc.net.datagram.port": ("DatagramPort",),
            "greetsvc.net.deadlines": ("Deadlines",),
            "greetsvc.net.endpoint": ("Endpoint", "parse_endpoint"),
            "greetsvc.net.linger.half_close": ("LingeringClose",),
            "greetsvc.net.linger.sweep": ("ILingers", "Lingerers"),
            "greetsvc.net.proxy.header": ("ProxyHeader", "ProxyHeaderError", "ProxyParser", "encode_v1", "encode_v2"),
            "greetsvc.net.proxy.wrapper": ("ProxiedFactory", "ProxiedTransport"),
            "greetsvc.net.sockets": (
                *("UnixPath", "datagram_socket", "stream_socket"),
                *("unix_datagram_socket", "unix_stream_socket"),
            ),
            "greetsvc.net.stream.facade": ("ListeningReactor",),
            "greetsvc.net.stream.listener": ("StreamPort",),
            "greetsvc.net.tls.endpoint": ("tls_endpoint",),
        },
    )

__all__ = [
    "DatagramPort",
    "Deadlines",
    "Endpoint",
    "ILingers",
    "Lingerers",
    "LingeringClose",
    "ListeningReactor",
    "ProxiedFactory",
    "ProxiedTransport",
    "ProxyHeader",
    "ProxyHeaderError",
    "ProxyParser",
    "StreamPort",
    "UnixPath",
    "datagram_socket",
    "encode_v1",
    "encode_v2",
    "parse_endpoint",
    "stream_socket",
    "tls_endpoint",
    "unix_datagram_socket",
    "unix_stream_socket",
]

"""The protocols of the service pass the tests that those of others have to pass."""

from __future__ import annotations

from greetsvc.testing import Conformance


class TestLines(Conformance):
    plugin = "lines"


class TestNetstring(Conformance):
    plugin = "netstring:max=300"


class TestInt32(Conformance):
    plugin = "int32"
    encoding = "gb18030"


class TestWebSocket(Conformance):
    plugin = "websocket"

"""Coverage-guided fuzzing of the parsers that read data from strangers or from operators.

    python tests/attacks/fuzz/fuzz.py proxy --seconds 60

starts from ``tests/attacks/fuzz/corpus/TARGET/``, stops at the first finding (exit status not 0; the input is left in
the working directory as ``fuzz-TARGET-crash-…``), and says at the end how many inputs were run. It needs atheris, the
dependency group ``fuzz``. A finding becomes a file of the corpus, which ``test_corpus.py`` runs with every test run.

A target is one function in `TARGETS`. It is given a folder for its own use, imports what it fuzzes, and returns a
callable that is given bytes and raises nothing, but for an `AssertionError` when a promise is broken.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from mmap import mmap
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias

Run: TypeAlias = Callable[[bytes], None]

CORPUS = Path(__file__).parent / "corpus"
_INSTRUMENTED = ["greetsvc", "tomllib"]
_LONGEST = 4300
"""Bytes of one input: a little more than the longest header."""
_HANG = 10
"""Seconds that one input may take."""


def proxy(_scratch: Path) -> Run:
    """The PROXY header: one reason or one header, whatever the fragments, and never more kept than is legal."""
    from greetsvc.net.proxy.header import LONGEST_V2, ProxyHeader, ProxyHeaderError, ProxyParser

    def pieces(data: bytes, size: int) -> tuple[ProxyHeader, bytes] | str | None:
        parser = ProxyParser()
        try:
            for start in range(0, len(data), size):
                assert start < LONGEST_V2, "more is kept than the longest header"
                result = parser.feed(data[start : start + size])
                if result is not None:
                    return result[0], result[1] + data[start + size :]
        except ProxyHeaderError as error:
            return str(error)
        return None

    def run(data: bytes) -> None:
        whole = pieces(data, len(data) or 1)
        for size in (1 if len(data) < 256 else 61, 7):
            fragments = pieces(data, size)
            # Fragments may show a fault before the one that the whole shows first.
            assert fragments == whole or (isinstance(fragments, str) and isinstance(whole, str)), (size, whole)

    return run


def target(_scratch: Path) -> Run:
    """What ``greet`` is told to greet: refused in one line, or spelled out so that it is read back."""
    from greetsvc.client.target import parse

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        try:
            parsed = parse(text)
        except ValueError as error:
            _one_line(error)
        else:
            assert parse(str(parsed)) == parsed

    return run


def endpoint(_scratch: Path) -> Run:
    """Endpoint strings: refused in one line, or read."""
    from greetsvc.net.endpoint import parse_endpoint

    def run(data: bytes) -> None:
        try:
            parse_endpoint(data.decode("utf-8", "surrogateescape"))
        except ValueError as error:
            _one_line(error)

    return run


def template(_scratch: Path) -> Run:
    """Greeting templates: refused with a ValueError, or good for every visit. The first byte picks the encoding."""
    from greetsvc.greeters.text import TextGreeter
    from greetsvc.visit import Address, Visit

    encodings = ("utf-8", "ascii", "latin-1", "utf-16", "idna", "cp037", "utf-7", "punycode")
    visits = [
        Visit("tcp", Address("192.0.2.1", 1), Address("::1", 65535)),
        Visit("unix", Address("\udcff", 0), Address("", 0), number=2**40, when=1e9, name="{name}\\n\u20ac"),
    ]

    def run(data: bytes) -> None:
        encoding = encodings[data[0] % len(encodings)] if data else encodings[0]
        with suppress(ValueError):
            greeter = TextGreeter(data[1:].decode("utf-8", "surrogateescape"), encoding)
            for visit in visits:
                assert isinstance(greeter.greet(visit), bytes)

    return run


def config(scratch: Path) -> Run:
    """TOML files: settings, or one line that says what is wrong."""
    from greetsvc.daemon.settings.config import read_toml, settings
    from greetsvc.errors import ConfigError

    path = scratch / "fuzz.toml"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        try:
            settings({}, (), read_toml(str(path)), "fuzz.toml")
        except ConfigError as error:
            _one_line(error)

    return run


def record(_scratch: Path) -> Run:
    """What a server says the path did: a record that is encoded as it was read, or none."""
    from greetsvc.wire import decode_record, encode_record

    def run(data: bytes) -> None:
        found = decode_record(data)
        if found is not None:
            # A record of ours is shorter than what a stranger may make up: it is cut, and then stays as it is.
            cut = decode_record(encode_record(found))
            assert cut is not None
            assert encode_record(cut).count(b"\n") == 1

    return run


def packet(_scratch: Path) -> Run:
    """The SYN as the kernel keeps it: its fields, or nothing."""
    from greetsvc.net.linux.packets import Syn, parse_syn

    def run(data: bytes) -> None:
        found = parse_syn(data)
        assert found is None or (isinstance(found, Syn) and 0 <= found.dscp < 64 and 0 <= found.ecn < 4)

    return run


def tls(scratch: Path) -> Run:
    """What a TLS client sends: the connection goes on, or ends with one reason, and little is kept before that."""
    from typing import get_args

    from twisted.internet.protocol import Factory, Protocol
    from twisted.internet.task import Clock
    from twisted.internet.testing import StringTransportWithDisconnection

    from greetsvc.net.tls.certificates import CertificateFiles
    from greetsvc.net.tls.contexts import ReloadingContexts
    from greetsvc.net.tls.hello import LONGEST
    from greetsvc.net.tls.transport import TlsFactory, TlsFailure

    sys.path.append(str(Path(__file__).parents[3]))
    from tests.support.certificates import issue

    path = scratch / "server.pem"
    path.write_bytes(issue("server.example").both_pem)
    clock = Clock()
    contexts = ReloadingContexts(CertificateFiles(path, path), reactor=clock)

    def run(data: bytes) -> None:
        for size in (len(data) or 1, 1 if len(data) < 2000 else 61):
            reasons: list[str] = []

            def failed(reason: TlsFailure, _peer: object, reasons: list[str] = reasons) -> None:
                reasons.append(reason)

            factory = TlsFactory(contexts, Factory.forProtocol(Protocol), failed, clock)
            server = factory.buildProtocol(None)
            below = StringTransportWithDisconnection()
            below.protocol = server
            server.makeConnection(below)
            fed = 0
            while fed < len(data) and below.connected:
                server.dataReceived(data[fed : fed + size])
                fed += size
            assert below.connected or len(reasons) == 1, reasons
            assert fed < LONGEST + size or not below.connected, "more is taken than the bound"
            if below.connected:
                below.loseConnection()
            assert set(reasons) <= {*get_args(TlsFailure)}
            assert len(reasons) == bool(data), reasons

    return run


def talking(_scratch: Path) -> Run:
    """What the peer of a talking protocol sends: the same answers, whatever the fragments, and at most one error.

    The first byte picks protocol and encoding.
    """
    from twisted.internet.task import Clock

    from greetsvc.protocols.registry import StreamPlugin, find_protocol
    from greetsvc.testing.memory import MemoryPeer, context

    kinds = [
        *(("lines", encoding) for encoding in ("utf-8", "gb18030", "utf-16-le", "utf-16", "utf-7")),
        *(("netstring", "utf-8"), ("int32", "big5"), ("websocket", "utf-8")),
    ]
    made = [(find_protocol(name, "max=40", encoding), encoding) for name, encoding in kinds]

    def answers(plugin: StreamPlugin, encoding: str, data: bytes, size: int) -> tuple[bytes, bool]:
        clock = Clock()
        peer = MemoryPeer(plugin.stream(context(clock, encoding)), clock)
        for start in range(0, len(data), size):
            peer.say(data[start : start + size])
        ended: int = peer.protocol.factory.ledger.ended.total()
        assert ended <= 1
        assert not peer.reset
        if peer.heard.startswith(b"HTTP/1.1 4"):  # no handshake: the answer has the date in it
            return b"", False
        # The reason in a close frame (0x88) may name a position, which depends on the fragments.
        return bytes(peer.heard).partition(b"\x88")[0], peer.closed

    def run(data: bytes) -> None:
        plugin, encoding = made[data[0] % len(made) if data else 0]
        assert isinstance(plugin, StreamPlugin)
        whole = answers(plugin, encoding, data[1:], len(data) or 1)
        for size in (1 if len(data) < 256 else 61, 7):
            assert answers(plugin, encoding, data[1:], size) == whole, size

    return run


def measured(_scratch: Path) -> Run:
    """A request for a measured answer, and such an answer: read within bounds, or none."""
    from greetsvc import wire
    from greetsvc.server.sessions import Sessions

    sessions = Sessions()

    def run(data: bytes) -> None:
        assert len(wire.fields_of(data)) <= wire.MAX_FIELDS
        answer = sessions.answer(data, 0, len(data), None, None, None)
        if answer is not None:
            assert len(answer) < min(len(data), wire.MAX_MEASURED + 1)
            assert wire.measured_in(answer) is not None
        wire.measured_in(data)

    return run


TARGETS: dict[str, Callable[[Path], Run]] = {
    "proxy": proxy,
    "talking": talking,
    "target": target,
    "endpoint": endpoint,
    "template": template,
    "config": config,
    "record": record,
    "measured": measured,
    "packet": packet,
    "tls": tls,
}


def _one_line(error: Exception) -> None:
    text = str(error)
    assert text, "an error without a word"
    assert len(text.splitlines()) == 1, f"an error of several lines: {text!r}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz one target for so many seconds; 2 when that cannot be done here."""
    parser = argparse.ArgumentParser(description="Coverage-guided fuzzing of one parser.")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60, help="how long (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        atheris = importlib.import_module("atheris")
    except ImportError as error:
        parser.exit(
            2, f"fuzz: atheris is not here ({error}); `pip install --group fuzz` adds it where it has wheels\n"
        )
    executions = mmap(-1, 8)
    started = monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        # libFuzzer ends its process without a word to Python: so it gets one of its own.
        child = os.fork()
        if child == 0:
            _fuzz(atheris, options.target, options.seconds, Path(scratch), executions)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    count = int.from_bytes(executions[:], sys.byteorder)
    outcome = "nothing found" if status == 0 else f"stopped by a finding (status {status})"
    sys.stdout.write(f"fuzz: {options.target}: {count} executions in {monotonic() - started:.0f} s, {outcome}\n")
    return min(abs(status), 1)


def _fuzz(atheris: Any, name: str, seconds: int, scratch: Path, executions: mmap) -> None:
    """Never returns."""
    atheris.enabled_hooks.add("str")
    with atheris.instrument_imports(include=_INSTRUMENTED):
        run = TARGETS[name](scratch)
    count = memoryview(executions).cast("Q")

    def counted(data: bytes) -> None:
        count[0] += 1
        run(data)

    found = scratch / "found"  # what is new and good for coverage; our own corpus stays as it is
    found.mkdir()
    flags = {"max_total_time": seconds, "max_len": _LONGEST, "timeout": _HANG, "artifact_prefix": f"./fuzz-{name}-"}
    atheris.Setup(
        [sys.argv[0], *(f"-{flag}={value}" for flag, value in flags.items()), str(found), str(CORPUS / name)], counted
    )
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())

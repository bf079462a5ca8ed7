"""What was sent, compared with what arrived."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from greetsvc import Greeting, greet, wire
from greetsvc.client.options import ProbeOptions
from greetsvc.client.path import TCP_OPTIONS, PathChanges, Sent, compare
from greetsvc.client.probe.datagram.requests import answers_request
from greetsvc.client.probe.probe import Probe
from greetsvc.client.report.json_lines import JsonReport
from greetsvc.client.report.text import TextReport
from greetsvc.client.target import format_address, parse
from greetsvc.net.linux.packets import Syn
from greetsvc.net.linux.tcp_info import TcpInfo
from greetsvc.visit import Address
from greetsvc.wire import Datagram, PathRecord, Tcp

US = Address("10.0.1.2", 40112)
ASKED = Address("10.0.2.2", 8088)
PROXY = Address("10.0.2.1", 50000)
CLAIM = Address("192.0.2.77", 7)
INFO = TcpInfo(rtt_us=100, mss=1448, retransmits=0, advertised_mss=1448, timestamps=True, sack=True, wscale=True)
SENT = Sent(ASKED, local=US, ttl=64, dscp=46, tcp=INFO, offered=frozenset(TCP_OPTIONS))
SYN = Syn(ttl=64, dscp=46, ecn=0, mss=1460, wscale=7, sack=True, timestamps=True)
CLEAN = PathRecord(
    instance="0badcafe",
    nonce=None,
    transport="tcp",
    you=US,
    me=ASKED,
    via=None,
    syn=SYN,
    tcp=Tcp(100, 1448, 0),
    tls=None,
    datagram=None,
)
KEYS = ["nat", "proxy", "hops", "mss", "stripped", "dscp", "instance"]


def notable(changes: PathChanges) -> list[str]:
    return [note.text for note in changes.notes if note.notable]


def all_notes(changes: PathChanges) -> list[str]:
    return [note.text for note in changes.notes]


def test_a_clean_path_is_clean_and_everything_is_known() -> None:
    changes = compare(SENT, CLEAN)
    assert json.loads(json.dumps(changes.as_json())) == {
        "nat": False,
        "proxy": False,
        "hops": 0,
        "mss": None,
        "stripped": [],
        "dscp": None,
        "instance": "0badcafe",
    }
    assert list(changes.as_json()) == KEYS
    assert notable(changes) == []
    assert all_notes(changes) == [
        "NAT: no",
        "proxy: none reported",
        "hops: 0",
        "MSS: 1460, as sent",
        "TCP options: none stripped",
        "DSCP: 46, as sent",
        "replica: 0badcafe",
    ]


@pytest.mark.parametrize(
    ("change", "told", "said"),
    [
        ({"you": Address("192.0.2.9", 61004)}, {"nat": True}, "NAT: likely, 10.0.1.2:40112 became 192.0.2.9:61004"),
        ({"you": Address("10.0.1.2", 40113)}, {"nat": True}, "NAT: likely, 10.0.1.2:40112 became 10.0.1.2:40113"),
        (
            {"me": Address("10.9.9.9", 80)},
            {"nat": True},
            "NAT: likely, the target 10.0.2.2:8088 became 10.9.9.9:80",
        ),
        ({"syn": evolve(SYN, ttl=62)}, {"hops": 2}, "hops: 2"),
        (
            {"syn": evolve(SYN, mss=1200)},
            {"mss": {"sent": 1460, "arrived": 1200}},
            "MSS: clamped, 1460 became 1200",
        ),
        ({"syn": evolve(SYN, mss=8960)}, {"mss": {"sent": 1460, "arrived": 8960}}, "MSS: raised, 1460 became 8960"),
        ({"syn": evolve(SYN, mss=None)}, {}, "MSS: stripped, 1460 was sent and none arrived"),
        (
            {"syn": evolve(SYN, timestamps=False)},
            {"stripped": ["timestamps"]},
            "TCP options: timestamps stripped",
        ),
        (
            {"syn": evolve(SYN, timestamps=False, sack=False, wscale=None)},
            {"stripped": ["timestamps", "sack", "wscale"]},
            "TCP options: timestamps, sack, wscale stripped",
        ),
        ({"syn": evolve(SYN, dscp=0)}, {"dscp": {"sent": 46, "arrived": 0}}, "DSCP: rewritten, 46 became 0"),
    ],
)
def test_one_change_is_named_and_nothing_else(change: dict[str, Any], told: dict[str, Any], said: str) -> None:
    changes = compare(SENT, evolve(CLEAN, **change))
    assert json.dumps(changes.as_json()) == json.dumps(compare(SENT, CLEAN).as_json() | told)
    assert notable(changes) == [said]


STAMPED = evolve(SENT, timestamp=1_000_000, since=0.05)
OURS, FOREIGN = evolve(SYN, tsval=999_980), evolve(SYN, tsval=4_000_000_000)
BOTH: dict[str, Any] = {"you": Address("192.0.2.9", 61004), "me": Address("10.9.9.9", 80)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"you": Address("192.0.2.9", 61004)}, "NAT: yes, 10.0.1.2:40112 became 192.0.2.9:61004"),
        ({"me": Address("10.9.9.9", 80)}, "NAT: yes, the target 10.0.2.2:8088 became 10.9.9.9:80"),
        (
            BOTH,
            "NAT: yes, 10.0.1.2:40112 became 192.0.2.9:61004, and the target 10.0.2.2:8088 became 10.9.9.9:80",
        ),
    ],
)
def test_our_time_stamp_on_a_changed_address_is_nat(change: dict[str, Any], words: str) -> None:
    changes = compare(STAMPED, evolve(CLEAN, syn=OURS, **change))
    assert (changes.nat, changes.proxy, changes.hops, changes.stripped) == (True, False, 0, ())
    assert notable(changes) == [words]


@pytest.mark.parametrize("change", [BOTH, {"you": Address("192.0.2.9", 61004)}, {}])
def test_another_time_stamp_is_a_proxy_that_ends_the_connection(change: dict[str, Any]) -> None:
    record = evolve(CLEAN, syn=evolve(FOREIGN, ttl=63, dscp=0, mss=9000), **change)
    changes = compare(STAMPED, record)
    assert changes.as_json() == dict.fromkeys(KEYS) | {"proxy": True, "instance": "0badcafe"}
    (words,) = notable(changes)
    assert words.startswith("proxy: yes, a proxy ends the connection: its own came to the server, from ")
    assert words.endswith("; NAT, hops, MSS, TCP options and DSCP of ours are not known")


@pytest.mark.parametrize(
    ("tsval", "ours"),
    [
        (1_000_000, True),  # in the same tick
        (1_000_004, True),  # as far as two readings of one clock may differ
        (1_000_005, False),
        (999_950, True),  # when connecting began
        (999_945, False),
        (1_000_000 + 2**31, False),
    ],
)
def test_a_time_stamp_is_ours_when_it_is_from_the_time_of_our_connecting(tsval: int, ours: bool) -> None:
    changes = compare(STAMPED, evolve(CLEAN, syn=evolve(SYN, tsval=tsval), **BOTH))
    assert changes.proxy is not ours


def test_the_clock_of_time_stamps_may_wrap_while_we_connect() -> None:
    wrapped = evolve(SENT, timestamp=3, since=0.05)
    assert compare(wrapped, evolve(CLEAN, syn=evolve(SYN, tsval=2**32 - 20))).proxy is False


def test_an_equal_stamp_between_the_same_hosts_may_be_that_of_a_proxy_of_this_host() -> None:
    """The kernel gives all connections between two addresses one clock."""
    ports: dict[str, Any] = {"you": Address(US.host, 50001), "me": Address(ASKED.host, 9000)}
    changes = compare(STAMPED, evolve(CLEAN, syn=OURS, **ports))
    assert changes.as_json() == dict.fromkeys(KEYS) | {"instance": "0badcafe"}
    assert notable(changes)[0].startswith("NAT, or a proxy that does not say so: ")


@pytest.mark.parametrize(
    ("sent", "syn"), [(SENT, OURS), (STAMPED, SYN), (evolve(STAMPED, since=None), OURS), (STAMPED, None)]
)
def test_without_time_stamps_proxy_or_nat_is_not_decided(sent: Sent, syn: Syn | None) -> None:
    assert compare(sent, evolve(CLEAN, syn=syn, **BOTH)).proxy is None


def test_an_option_that_we_do_not_offer_is_not_stripped() -> None:
    bare = evolve(CLEAN, syn=evolve(SYN, timestamps=False, sack=False, wscale=None))
    assert compare(evolve(SENT, offered=frozenset()), bare).stripped == ()
    assert compare(evolve(SENT, offered=frozenset(["sack"])), bare).stripped == ("sack",)


def test_behind_a_proxy_what_arrived_is_not_known() -> None:
    changes = compare(SENT, evolve(CLEAN, via=PROXY, syn=None, tcp=None))
    assert changes.as_json() == dict.fromkeys(KEYS) | {"nat": False, "proxy": True, "instance": "0badcafe"}
    assert notable(changes) == [
        "proxy: yes, 10.0.2.1:50000 forwarded the connection; the packets that arrived were its own, not ours"
    ]


def test_our_own_header_that_the_server_accepts_does_not_make_us_a_proxy() -> None:
    claiming = evolve(SENT, claimed=CLAIM)
    direct = compare(claiming, evolve(CLEAN, you=CLAIM, via=US, syn=None, tcp=None))
    assert (direct.nat, direct.proxy, notable(direct)) == (False, False, [])
    translated = compare(claiming, evolve(CLEAN, you=CLAIM, via=PROXY, syn=None, tcp=None))
    assert notable(translated) == ["NAT: likely, 10.0.1.2:40112 became 10.0.2.1:50000"]


def test_our_own_header_that_the_server_ignores_is_reported() -> None:
    changes = compare(evolve(SENT, claimed=CLAIM), CLEAN)
    assert notable(changes) == ["PROXY header: ignored, the server saw 10.0.1.2:40112"]


@pytest.mark.parametrize(
    ("sent", "seen", "hops", "mss", "dscp"),
    [
        (Sent(ASKED, local=US), CLEAN, "hops: not known", "MSS: 1460", "DSCP: 46 arrived"),
        (SENT, evolve(CLEAN, syn=evolve(SYN, ttl=255)), "hops: not known", "MSS: 1460, as sent", "DSCP: 46, as sent"),
        (
            Sent(ASKED, local=US),
            evolve(CLEAN, syn=evolve(SYN, mss=None)),
            "hops: not known",
            "MSS: not known",
            "DSCP: 46 arrived",
        ),
    ],
)
def test_what_one_side_does_not_know_is_null_and_said_so(
    sent: Sent, seen: PathRecord, hops: str, mss: str, dscp: str
) -> None:
    changes = compare(sent, seen)
    assert (changes.hops, changes.mss, changes.dscp) == (None, None, None)
    assert {hops, mss, dscp} <= set(all_notes(changes))
    assert ("TCP options: not known" in all_notes(changes)) == (sent.offered is None)
    assert notable(changes) == []


def test_a_server_that_cannot_tell_what_arrived_is_named() -> None:
    changes = compare(SENT, evolve(CLEAN, syn=None, tcp=None))
    assert changes.as_json() == dict.fromkeys(KEYS) | {"nat": False, "proxy": False, "instance": "0badcafe"}
    assert notable(changes) == ["hops, MSS, TCP options, DSCP: not known, the server does not report what arrived"]


def test_ttl_and_dscp_of_datagrams_are_compared() -> None:
    udp = evolve(CLEAN, transport="udp", syn=None, tcp=None, datagram=Datagram(ttl=61, dscp=0, ecn=None, size=1200))
    changes = compare(evolve(SENT, tcp=None, offered=None), udp)
    assert changes.as_json() == dict.fromkeys(KEYS) | {
        "nat": False,
        "proxy": False,
        "hops": 3,
        "dscp": {"sent": 46, "arrived": 0},
        "instance": "0badcafe",
    }
    unknown = compare(SENT, evolve(udp, datagram=Datagram(ttl=None, dscp=None, ecn=None, size=1200)))
    assert (unknown.hops, unknown.dscp) == (None, None)
    assert "DSCP: not known" in all_notes(unknown)


def test_unix_sockets_have_no_path_to_compare() -> None:
    here = Address("/run/greet.sock", 0)
    seen = evolve(CLEAN, transport="unix", you=Address("", 0), me=here, syn=None, tcp=None)
    changes = compare(Sent(here), seen)
    assert all_notes(changes) == ["replica: 0badcafe"]
    assert changes.as_json() == dict.fromkeys(KEYS) | {"nat": False, "proxy": False, "instance": "0badcafe"}
    assert notable(changes) == []


@pytest.mark.parametrize(
    ("sent_to", "met"),
    [
        (Address("fe80::1%2", 8088), Address("fe80::1", 8088)),
        (Address("2001:db8:0::1", 8088), Address("2001:db8::1", 8088)),
        (Address("10.0.2.2", 8088), Address("::ffff:10.0.2.2", 8088)),
    ],
)
def test_one_address_in_two_spellings_was_not_translated(sent_to: Address, met: Address) -> None:
    assert compare(evolve(SENT, destination=sent_to), evolve(CLEAN, me=met)).nat is False


@pytest.mark.parametrize(
    ("asked", "ours", "seen", "met"),
    [
        (Address("0.0.0.0", 8088), Address("127.0.0.1", 5), Address("127.0.0.1", 5), Address("127.0.0.1", 8088)),
        (Address("::", 8088), Address("::1", 5), Address("::1", 5), Address("::1", 8088)),
        (
            Address("::ffff:0.0.0.0", 8088),
            Address("127.0.0.1", 5),
            Address("127.0.0.1", 5),
            Address("127.0.0.1", 8088),
        ),
        (Address("10.0.2.2", 8088), Address("0.0.0.0", 5), Address("10.0.1.2", 5), Address("10.0.2.2", 8088)),
        (Address("fe80::1", 8088), Address("fe80::2", 5), Address("fe80::3", 5), Address("fe80::4", 8088)),
        (Address("10.0.2.2", 8088), US, US, Address("0.0.0.0", 8088)),
    ],
)
def test_an_address_that_does_not_say_which_host_it_is_was_not_translated(
    asked: Address, ours: Address, seen: Address, met: Address
) -> None:
    changes = compare(evolve(SENT, destination=asked, local=ours), evolve(CLEAN, you=seen, me=met))
    assert not changes.nat
    assert all_notes(changes)[0] == "NAT: not known"
    assert notable(changes) == []


@pytest.mark.parametrize("transport", ["tcp", "tls", "udp"])
def test_when_both_addresses_changed_nothing_is_stated_of_the_packets(transport: str) -> None:
    datagram = Datagram(ttl=64, dscp=0, ecn=None, size=1200) if transport == "udp" else None
    record = evolve(
        CLEAN,
        transport=transport,
        you=Address("10.0.9.9", 50123),
        me=Address("10.0.9.1", 80),
        syn=None if datagram else evolve(SYN, ttl=64, dscp=0, mss=65495),
        datagram=datagram,
    )
    changes = compare(SENT, record)
    assert changes.as_json() == dict.fromkeys(KEYS) | {"instance": "0badcafe"}
    assert notable(changes) == [
        "NAT, or a proxy that does not say so: 10.0.1.2:40112 became 10.0.9.9:50123, "
        "and the target 10.0.2.2:8088 became 10.0.9.1:80",
        "hops, MSS, TCP options, DSCP: not known, the packets that arrived may be those of a proxy",
    ]
    assert "proxy: not known" in all_notes(changes)


def tell(connection: Any) -> None:
    """A server that tells what it sees, as the greeter `path` does."""
    from greetsvc.net.linux.packets import read_syn

    you, me = (Address.plain(*name[:2]) for name in (connection.getpeername(), connection.getsockname()))
    connection.sendall(wire.encode_record(evolve(CLEAN, you=you, me=me, syn=read_syn(connection))))


@pytest_twisted.ensureDeferred
async def test_a_silent_proxy_is_not_told_as_nat(peers: Any) -> None:
    from greetsvc.net.linux.packets import keep_syn

    server = peers.stream(tell)
    keep_syn(peers.sockets[0])

    def forward(connection: Any) -> None:
        with socket.create_connection(("127.0.0.1", parse(server).port)) as behind:
            while data := behind.recv(4096):
                connection.sendall(data)

    greeting = await Probe(parse(peers.stream(forward)), ProbeOptions(dscp=46)).run()
    assert greeting.path is not None
    # It has our address and our clock; what tells is whether its SYN is clearly later than ours.
    assert greeting.path.proxy is not False
    assert greeting.path.as_json() == dict.fromkeys(KEYS) | {"proxy": greeting.path.proxy, "instance": "0badcafe"}
    told = "".join(all_notes(greeting.path))
    assert all(words not in told for words in ("NAT: yes", "rewritten", "hops: 0", "none reported"))


@pytest_twisted.ensureDeferred
async def test_a_busy_host_does_not_take_its_own_time_stamp_for_that_of_a_proxy(
    peers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from greetsvc.client.probe.sockets import read_stream as read
    from greetsvc.net.linux.packets import keep_syn

    def read_late(*of: Any) -> Sent:
        time.sleep(0.05)  # as long as this process waits for the processor
        return read(*of)

    monkeypatch.setattr("greetsvc.client.probe.stream.connection.read_stream", read_late)
    target = peers.stream(tell)
    keep_syn(peers.sockets[0])
    greeting = await greet(target)
    assert greeting.path is not None
    assert (greeting.path.proxy, greeting.path.nat) == (False, False)


@pytest.mark.parametrize("target", ["[::ffff:127.0.0.1]", "127.0.0.1", "0.0.0.0", "[::ffff:0.0.0.0]"])
@pytest_twisted.ensureDeferred
async def test_the_dscp_that_is_asked_for_is_sent_over_ipv4_whatever_its_spelling(peers: Any, target: str) -> None:
    from greetsvc.net.linux.packets import keep_syn

    port = parse(peers.stream(tell)).port
    keep_syn(peers.sockets[0])
    greeting = await Probe(parse(f"{target}:{port}"), ProbeOptions(dscp=46)).run()
    assert greeting.path is not None
    assert (greeting.path.hops, greeting.path.dscp) == (0, None)
    assert not greeting.path.nat
    assert "DSCP: 46, as sent" in all_notes(greeting.path)


def test_addresses_are_written_as_targets_are() -> None:
    assert format_address(US) == "10.0.1.2:40112"
    assert format_address(Address("::1", 1)) == "[::1]:1"
    assert format_address(Address("/s", 0)) == "/s"


def test_an_answer_is_ours_unless_it_names_another_request() -> None:
    line = wire.encode_record(evolve(CLEAN, nonce="00000000000000aa"))
    assert answers_request(b"Thank you for connecting\r\n", "00000000000000aa")
    assert answers_request(b'{"not": "a record"}', "00000000000000aa")
    assert answers_request(line, "00000000000000aa")
    assert not answers_request(line, "00000000000000ab")
    assert not answers_request(line, None)
    assert answers_request(wire.encode_record(CLEAN), None)


_PORTS = st.integers(0, 65535)
_HOSTS = st.sampled_from(["10.0.1.2", "10.0.2.2", "::1", "fe80::1%3", "", "0.0.0.0", "/s", "not an address"])
_ADDRESSES = st.builds(Address, _HOSTS, _PORTS)
_BYTES = st.integers(0, 255)
_SYNS = st.builds(
    Syn,
    ttl=_BYTES,
    dscp=_BYTES,
    ecn=_BYTES,
    mss=st.none() | _PORTS,
    wscale=st.none() | _BYTES,
    sack=st.booleans(),
    timestamps=st.booleans(),
    tsval=st.none() | st.integers(0, 2**32 - 1),
)


@given(
    st.builds(
        PathRecord,
        instance=st.text(max_size=9),
        nonce=st.none(),
        transport=st.sampled_from(["tcp", "tls", "udp", "unix", "unixgram", "carrier pigeon"]),
        you=_ADDRESSES,
        me=_ADDRESSES,
        via=st.none() | _ADDRESSES,
        syn=st.none() | _SYNS,
        tcp=st.none() | st.builds(Tcp, _PORTS, _PORTS, _BYTES),
        tls=st.none(),
        datagram=st.none() | st.builds(Datagram, st.none() | _BYTES, st.none() | _BYTES, st.none() | _BYTES, _PORTS),
    ),
    st.builds(
        Sent,
        _ADDRESSES,
        local=st.none() | _ADDRESSES,
        claimed=st.none() | _ADDRESSES,
        timestamp=st.none() | st.integers(0, 2**32 - 1),
        since=st.none() | st.floats(0, 60),
    ),
)
def test_no_record_breaks_the_comparison(seen: PathRecord, sent: Sent) -> None:
    changes = compare(sent, seen)
    assert list(json.loads(json.dumps(changes.as_json()))) == KEYS
    assert all_notes(changes)


@pytest_twisted.ensureDeferred
async def test_over_loopback_a_server_sees_what_we_sent(peers: Any) -> None:
    from greetsvc.net.linux.packets import keep_syn, read_syn

    def tell(connection: Any) -> None:
        syn = read_syn(connection)
        assert syn is not None
        seen = evolve(
            CLEAN,
            you=Address(*connection.getpeername()),
            me=Address(*connection.getsockname()),
            syn=Syn(syn.ttl, syn.dscp, syn.ecn, syn.mss, syn.wscale, syn.sack, syn.timestamps),
        )
        connection.sendall(wire.encode_record(seen))

    target = peers.stream(tell)
    keep_syn(peers.sockets[0])
    greeting = await greet(target)
    assert greeting.path is not None
    assert greeting.path.as_json() == compare(SENT, CLEAN).as_json()
    assert greeting.sent is not None
    assert greeting.sent.syns == 1


@pytest_twisted.ensureDeferred
async def test_a_record_for_another_request_is_not_taken(peers: Any) -> None:
    def confuse(sock: Any, _: bytes, sender: Any) -> None:
        sock.sendto(wire.encode_record(evolve(CLEAN, transport="udp", nonce="00000000000000aa")), sender)
        sock.sendto(b"hello", sender)

    greeting = await greet(peers.datagram(confuse))
    assert greeting.data == b"hello"
    assert greeting.notes == ("an answer to another request came",)
    assert greeting.path is None


def greeting_with(path: PathChanges | None) -> Greeting:
    from greetsvc.client.result import Seconds

    line = "{}\n" if path is None else wire.encode_record(CLEAN).decode()
    return Greeting(parse("10.0.2.2"), line.encode(), line, Seconds(), ASKED, "fin", path=path)


def test_the_probe_object_has_the_path_of_a_record_only() -> None:
    report = JsonReport(parse("10.0.2.2"), several=False)
    with_path = json.loads(report.probe(1, greeting_with(compare(SENT, CLEAN)), []).out[0])
    assert list(with_path["path"]) == KEYS
    assert "path" not in json.loads(report.probe(1, greeting_with(None), []).out[0])


def test_in_a_run_each_note_is_reported_once() -> None:
    plain = TextReport(parse("10.0.2.2"), several=True)
    first = plain.probe(1, greeting_with(compare(SENT, evolve(CLEAN, you=Address("192.0.2.9", 61004)))), [])
    assert first.err == ["greet: 1: tcp:10.0.2.2:8088: NAT: likely, 10.0.1.2:40112 became 192.0.2.9:61004"]
    assert first.out[0].endswith(": a path record of 0badcafe")
    again = evolve(CLEAN, you=Address("192.0.2.9", 61005), syn=evolve(SYN, ttl=63))
    assert plain.probe(2, greeting_with(compare(SENT, again)), []).err == ["greet: 2: tcp:10.0.2.2:8088: hops: 1"]

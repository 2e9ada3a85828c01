"""Each error of a peer gives the alert of RFC 8446, with no key installed and nothing sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from tests.support import tls as support
from tests.support.tls import Pair, RecordingTransport
from velocity_edge.keys.ring import TICKET, KeyRing
from velocity_edge.keys.table import first_table
from velocity_edge.tls import codec, codec_client, kex
from velocity_edge.tls.alerts import Alert, AlertDescription
from velocity_edge.tls.client import ClientHandshake
from velocity_edge.tls.codec_client import Offer
from velocity_edge.tls.handshake import ServerHandshake
from velocity_edge.tls.tickets import Tickets
from velocity_edge.tls.transport import Level, MessageReader
from velocity_edge.tls.vectors import extension, extensions, message, opaque, vector, whole

A = AlertDescription
GOOD_SHARE = kex.GROUPS[kex.X25519].start()[1]


def offer(**changes: object) -> Offer:
    options: dict[str, object] = {
        "random": bytes(32),
        "suites": (0x1301,),
        "groups": (kex.X25519,),
        "key_shares": {kex.X25519: GOOD_SHARE},
        "signature_schemes": (0x0403,),
        "server_name": support.NAME,
        "alpn": (b"h3",),
        "parameters": b"\x01\x01\x05",
    }
    return Offer(**options | changes)  # type: ignore[arg-type]


def hello(**changes: object) -> bytes:
    return codec_client.client_hello(offer(**changes), None, 0, 0)


def edit(change: Callable[[dict[int, bytes]], None], base: bytes | None = None) -> bytes:
    """Change the extensions of a valid hello."""
    base = base or hello()
    head, at = base[4:39], 39
    _, end = vector(base, at, len(base), 2)
    _, end = vector(base, end, len(base), 1)
    found = extensions(whole(base[end:], 2))
    change(found)
    block = b"".join(extension(kind, data) for kind, data in found.items())
    return message(codec.CLIENT_HELLO, head + base[at:end] + opaque(block, 2))


def without(kind: int) -> bytes:
    return edit(lambda found: found.__delitem__(kind) if kind in found else None)


def replaced(kind: int, data: bytes) -> bytes:
    return edit(lambda found: found.__setitem__(kind, data))


def with_fixed(at: int, data: bytes) -> bytes:
    base = hello()
    return base[:at] + data + base[at + len(data) :]


def share(group: int, data: bytes) -> dict[str, object]:
    return {"groups": (group,), "key_shares": {group: data}}


X25519MLKEM768_SHARE = kex.GROUPS[kex.X25519_MLKEM768].start()[1]
P256_SHARE = kex.GROUPS[kex.SECP256R1].start()[1]

WRONG_HELLOS: dict[str, tuple[bytes, AlertDescription]] = {
    "no supported_versions": (without(codec.EXT_SUPPORTED_VERSIONS), A.PROTOCOL_VERSION),
    "only TLS 1.2": (replaced(codec.EXT_SUPPORTED_VERSIONS, b"\x02\x03\x03"), A.PROTOCOL_VERSION),
    "legacy version": (with_fixed(4, b"\x03\x01"), A.DECODE_ERROR),
    "truncated": (hello()[:-1], A.DECODE_ERROR),
    "trailing byte": (hello() + b"\0", A.DECODE_ERROR),
    "no common suite": (hello(suites=(0x1304,)), A.HANDSHAKE_FAILURE),
    "no suites": (hello(suites=()), A.DECODE_ERROR),
    "no ALPN": (without(codec.EXT_ALPN), A.NO_APPLICATION_PROTOCOL),
    "other ALPN": (hello(alpn=(b"doq",)), A.NO_APPLICATION_PROTOCOL),
    "no groups": (without(codec.EXT_SUPPORTED_GROUPS), A.MISSING_EXTENSION),
    "no key_share": (without(codec.EXT_KEY_SHARE), A.MISSING_EXTENSION),
    "no signature_algorithms": (without(codec.EXT_SIGNATURE_ALGORITHMS), A.MISSING_EXTENSION),
    "no transport parameters": (without(codec.EXT_QUIC_PARAMETERS), A.MISSING_EXTENSION),
    "no common group": (hello(groups=(0x0019,), key_shares={}), A.HANDSHAKE_FAILURE),
    "share of an unlisted group": (hello(groups=(kex.SECP256R1,)), A.ILLEGAL_PARAMETER),
    "no common signature": (hello(signature_schemes=(0x0807,)), A.HANDSHAKE_FAILURE),
    "x25519 share too short": (hello(**share(kex.X25519, bytes(31))), A.ILLEGAL_PARAMETER),
    "x25519 share all zero": (hello(**share(kex.X25519, bytes(32))), A.ILLEGAL_PARAMETER),
    "P-256 point not on the curve": (
        hello(**share(kex.SECP256R1, b"\x04" + bytes(63) + b"\x01")),
        A.ILLEGAL_PARAMETER,
    ),
    "P-256 point compressed": (hello(**share(kex.SECP256R1, b"\x02" + P256_SHARE[1:33])), A.ILLEGAL_PARAMETER),
    "P-256 point with a wrong form": (hello(**share(kex.SECP256R1, b"\x06" + P256_SHARE[1:])), A.ILLEGAL_PARAMETER),
    "hybrid share too short": (
        hello(**share(kex.X25519_MLKEM768, X25519MLKEM768_SHARE[:-1])),
        A.ILLEGAL_PARAMETER,
    ),
    "hybrid share empty": (hello(**share(kex.X25519_MLKEM768, b"")), A.DECODE_ERROR),
    "ML-KEM key that is not reduced": (
        hello(**share(kex.X25519_MLKEM768, b"\xff" * 1152 + X25519MLKEM768_SHARE[1152:])),
        A.ILLEGAL_PARAMETER,
    ),
    "hybrid with X25519 all zero": (
        hello(**share(kex.X25519_MLKEM768, X25519MLKEM768_SHARE[:1184] + bytes(32))),
        A.ILLEGAL_PARAMETER,
    ),
    "two shares of a group": (
        replaced(codec.EXT_KEY_SHARE, opaque((b"\x00\x1d" + opaque(GOOD_SHARE, 2)) * 2, 2)),
        A.ILLEGAL_PARAMETER,
    ),
    "early_data with content": (replaced(codec.EXT_EARLY_DATA, b"\0"), A.DECODE_ERROR),
    "server name of another type": (replaced(codec.EXT_SERVER_NAME, b"\0\4\1\0\1a"), A.ILLEGAL_PARAMETER),
    "server name not ASCII": (replaced(codec.EXT_SERVER_NAME, b"\0\4\0\0\1\xff"), A.DECODE_ERROR),
    "server name with NUL": (replaced(codec.EXT_SERVER_NAME, b"\0\4\0\0\1\0"), A.DECODE_ERROR),
    **{
        f"server name {name!r}": (replaced(codec.EXT_SERVER_NAME, opaque(b"\0" + opaque(name, 2), 2)), A.DECODE_ERROR)
        for name in (
            b"",
            b".",
            b"a..b",
            b".a",
            b"host.",
            b"a" * 64,
            b"a." * 126 + b"ab",
            b"a b",
            b"a\n",
            b"a\r\nlost=0",
            b"x\x1b[2Jy",
            b"a\x7f",
            b"a\x9bb",
            b"a/b",
            b"a:443",
            b"user@host",
            b"::1",
            b"[::1]",
            b"127.0.0.1",
            b"1",
            b"*.example",
            b"%41",
            b"<script>",
        )
    },
    "two server names": (
        replaced(codec.EXT_SERVER_NAME, opaque((b"\0" + opaque(b"a", 2)) + (b"\0" + opaque(b"b", 2)), 2)),
        A.DECODE_ERROR,
    ),
    "list of server names empty": (replaced(codec.EXT_SERVER_NAME, b"\0\0"), A.ILLEGAL_PARAMETER),
    # Vectors that RFC 8446 bounds from below.
    "no versions": (replaced(codec.EXT_SUPPORTED_VERSIONS, b"\0"), A.DECODE_ERROR),
    "groups empty": (replaced(codec.EXT_SUPPORTED_GROUPS, b"\0\0"), A.DECODE_ERROR),
    "signature_algorithms empty": (replaced(codec.EXT_SIGNATURE_ALGORITHMS, b"\0\0"), A.DECODE_ERROR),
    "ALPN empty": (replaced(codec.EXT_ALPN, b"\0\0"), A.DECODE_ERROR),
    "ALPN name empty": (replaced(codec.EXT_ALPN, b"\0\4\0\2h3"), A.DECODE_ERROR),
    "ALPN name empty behind h3": (replaced(codec.EXT_ALPN, b"\0\4\2h3\0"), A.DECODE_ERROR),
    "PSK modes empty": (replaced(codec.EXT_PSK_MODES, b"\0"), A.DECODE_ERROR),
    "certificate_authorities empty": (replaced(codec.EXT_CERTIFICATE_AUTHORITIES, b"\0\0"), A.DECODE_ERROR),
    "certificate authority empty": (replaced(codec.EXT_CERTIFICATE_AUTHORITIES, b"\0\2\0\0"), A.DECODE_ERROR),
    "compression methods empty": (
        message(codec.CLIENT_HELLO, hello()[4:43] + b"\0" + hello()[45:]),
        A.DECODE_ERROR,
    ),
    "session id of 33 bytes": (
        message(codec.CLIENT_HELLO, hello()[4:38] + opaque(bytes(33), 1) + hello()[39:]),
        A.DECODE_ERROR,
    ),
    "PSK without identities": (replaced(41, opaque(b"", 2) + opaque(opaque(bytes(32), 1), 2)), A.DECODE_ERROR),
    "PSK identity empty": (
        replaced(41, opaque(opaque(b"", 2) + bytes(4), 2) + opaque(opaque(bytes(32), 1), 2)),
        A.DECODE_ERROR,
    ),
    "PSK binder empty": (replaced(41, opaque(opaque(b"t", 2) + bytes(4), 2) + opaque(b"\0", 2)), A.DECODE_ERROR),
    "PSK binder of 31 bytes": (
        replaced(41, opaque(opaque(b"t", 2) + bytes(4), 2) + opaque(opaque(bytes(31), 1), 2)),
        A.DECODE_ERROR,
    ),
    "PSK without binders": (replaced(41, opaque(opaque(b"t", 2) + bytes(4), 2) + opaque(b"", 2)), A.DECODE_ERROR),
    "odd list of groups": (replaced(codec.EXT_SUPPORTED_GROUPS, b"\0\3\0\x1d\0"), A.DECODE_ERROR),
    "PSK that is not the last extension": (
        edit(
            lambda found: found.__setitem__(codec.EXT_PADDING, b""),
            codec_client.client_hello(offer(), b"ticket", 0, 32),
        ),
        A.ILLEGAL_PARAMETER,
    ),
    "PSK without modes": (
        edit(
            lambda found: found.pop(codec.EXT_PSK_MODES),
            codec_client.client_hello(offer(), b"ticket", 0, 32),
        ),
        A.MISSING_EXTENSION,
    ),
    "PSK with more binders than identities": (
        replaced(41, opaque(opaque(b"t", 2) + bytes(4), 2) + opaque(opaque(bytes(32), 1) * 2, 2)),
        A.ILLEGAL_PARAMETER,
    ),
}


@pytest.mark.parametrize("case", list(WRONG_HELLOS))
def test_wrong_first_hellos(case: str) -> None:
    data, expected = WRONG_HELLOS[case]
    transport = RecordingTransport()
    tickets = Tickets(KeyRing(first_table(b"r" * 32, 0.0), TICKET))
    server = support.server(support.policy(tickets=tickets), transport)
    assert server.feed(Level.INITIAL, data) == expected, server.alert_reason
    assert server.alert_reason
    assert transport.sent == []
    assert transport.keys == {}
    assert not server.done


def test_the_unchanged_hello_is_valid() -> None:
    transport = RecordingTransport()
    assert support.server(support.policy(), transport).feed(Level.INITIAL, hello()) == -1
    assert [level for level, _ in transport.sent] == [Level.INITIAL, Level.HANDSHAKE]


def test_a_middlebox_session_id_is_refused() -> None:
    base = hello()
    changed = message(codec.CLIENT_HELLO, base[4:38] + b"\x01X" + base[39:])
    assert support.server(support.policy()).feed(Level.INITIAL, changed) == A.ILLEGAL_PARAMETER


class TestSecondHello:
    """After a HelloRetryRequest only the key share may change, and it must be the requested one."""

    FIRST: dict[str, object] = {"groups": (kex.X25519_MLKEM768, kex.X25519)}  # noqa: RUF012

    def second(self, **changes: object) -> int:
        server = support.server(support.policy())
        assert server.feed(Level.INITIAL, hello(**self.FIRST)) == -1
        assert server.retried
        good = {"key_shares": {kex.X25519_MLKEM768: X25519MLKEM768_SHARE}}
        return server.feed(Level.INITIAL, hello(**self.FIRST | good | changes))

    def test_good(self) -> None:
        assert self.second() == -1

    @pytest.mark.parametrize(
        "changes",
        [
            {"key_shares": {kex.X25519: GOOD_SHARE}},
            {"key_shares": {}},
            {"key_shares": {kex.X25519_MLKEM768: X25519MLKEM768_SHARE, kex.X25519: GOOD_SHARE}},
            {"random": b"1" * 32},
            {"suites": (0x1302,)},
            {"groups": (kex.X25519_MLKEM768,)},
            {"server_name": "other.test"},
            {"alpn": (b"h3", b"velocity/1")},
            {"alpn": (b"velocity/1", b"h3")},
            {"signature_schemes": (0x0804,)},
            {"early_data": True},
        ],
    )
    def test_wrong(self, changes: dict[str, object]) -> None:
        assert self.second(**changes) == A.ILLEGAL_PARAMETER

    def test_no_third(self) -> None:
        server = support.server(support.policy())
        assert server.feed(Level.INITIAL, hello(**self.FIRST)) == -1
        assert server.feed(Level.INITIAL, hello(**self.FIRST)) == A.ILLEGAL_PARAMETER


class TestLevels:
    """A message counts only at the encryption level that its state belongs to."""

    def ready(self) -> tuple[ServerHandshake, bytes]:
        """A server that waits for Finished, and the Finished that it waits for."""
        kept: list[bytes] = []

        def keep(receiver: str, level: int, data: bytes) -> bytes | None:
            if data[0] == codec.FINISHED and receiver == "server":
                kept.append(data)
                return None
            return data

        pair = support.run(support.policy(), tamper=keep)
        return pair.server, kept[0]

    @pytest.mark.parametrize("level", [Level.HANDSHAKE, Level.ONE_RTT, Level.ZERO_RTT])
    def test_hello_only_at_initial(self, level: Level) -> None:
        assert support.server(support.policy()).feed(level, hello()) == A.UNEXPECTED_MESSAGE

    @pytest.mark.parametrize("level", [Level.INITIAL, Level.ONE_RTT, Level.ZERO_RTT])
    def test_finished_only_at_handshake(self, level: Level) -> None:
        server, finished = self.ready()
        assert server.feed(level, finished) == A.UNEXPECTED_MESSAGE
        assert not server.done

    def test_a_second_hello_while_waiting_for_finished(self) -> None:
        server, _ = self.ready()
        assert server.feed(Level.INITIAL, hello()) == A.UNEXPECTED_MESSAGE

    def test_nothing_after_done(self) -> None:
        server, finished = self.ready()
        assert server.feed(Level.HANDSHAKE, finished) == -1
        assert server.done
        for level in (Level.HANDSHAKE, Level.ONE_RTT):
            # 24 is KeyUpdate, which QUIC forbids in TLS (RFC 9001 section 6).
            assert server.feed(level, b"\x18\0\0\x01\0") == A.UNEXPECTED_MESSAGE

    def test_wrong_finished(self) -> None:
        server, finished = self.ready()
        assert server.feed(Level.HANDSHAKE, finished[:-1] + bytes((finished[-1] ^ 1,))) == A.DECRYPT_ERROR
        server, finished = self.ready()
        assert server.feed(Level.HANDSHAKE, message(codec.FINISHED, finished[4:-1])) == A.DECODE_ERROR
        assert not server.done

    def test_too_large(self) -> None:
        server = support.server(support.policy())
        assert server.feed(Level.INITIAL, hello(padding_bytes=16_384)) == A.DECODE_ERROR

    def test_empty(self) -> None:
        assert support.server(support.policy()).feed(Level.INITIAL, b"") == A.UNEXPECTED_MESSAGE


class TestReader:
    """Bytes become whole messages, at most a bounded number of them is held, and none straddles a level."""

    def test_any_cut(self) -> None:
        data = message(1, b"abc") + message(2, b"") + message(3, bytes(300))
        for size in (1, 2, 3, 5, 100, 1000):
            reader = MessageReader(400)
            found = [m for at in range(0, len(data), size) for m in reader.messages(0, data[at : at + size])]
            assert found == support.split(data)

    def test_too_long_is_refused_by_its_header(self) -> None:
        with pytest.raises(Alert) as caught:
            list(MessageReader(400).messages(0, b"\x01\0\x01\x90"))
        assert caught.value.description == A.DECODE_ERROR

    def test_no_straddling(self) -> None:
        reader = MessageReader(400)
        assert list(reader.messages(0, message(1, b"") + b"\x14")) == [message(1, b"")]
        with pytest.raises(Alert) as caught:
            list(reader.messages(1, b"\0\0\0"))
        assert caught.value.description == A.UNEXPECTED_MESSAGE


class TestTampering:
    """Any change of a flight on its way is noticed by one side, and the handshake does not complete."""

    def altered(self, kind: int, receiver: str, change: Callable[[bytes], bytes], **options: object) -> Pair:
        def tamper(to: str, level: int, data: bytes) -> bytes:
            return change(data) if (to, data[0]) == (receiver, kind) else data

        return support.run(support.policy(), support.client(**options), tamper=tamper)

    @pytest.mark.parametrize(
        ("kind", "alert"),
        [
            (codec.ENCRYPTED_EXTENSIONS, A.DECRYPT_ERROR),
            (codec.CERTIFICATE_VERIFY, A.DECRYPT_ERROR),
            (codec.FINISHED, A.DECRYPT_ERROR),
        ],
    )
    def test_last_bit(self, kind: int, alert: AlertDescription) -> None:
        pair = self.altered(kind, "client", lambda m: m[:-1] + bytes((m[-1] ^ 1,)))
        assert pair.alert == ("client", alert)
        assert not pair.client.done
        assert not pair.server.done

    def test_a_stripped_post_quantum_share_is_noticed(self) -> None:
        """Downgrade: the hello's groups are in the transcript."""

        def strip(m: bytes) -> bytes:
            return m.replace(b"\x11\xec", b"\x7a\x7a")

        pair = self.altered(codec.CLIENT_HELLO, "server", strip, groups=(kex.X25519_MLKEM768, kex.X25519))
        assert pair.server.group == kex.X25519
        assert pair.alert == ("client", A.DECRYPT_ERROR)
        assert not pair.server.done

    def test_wrong_binder(self) -> None:
        policy = support.policy(tickets=Tickets(KeyRing(first_table(b"r" * 32, 0.0), TICKET)))
        [session] = support.run(policy).sessions

        def tamper(to: str, level: int, data: bytes) -> bytes:
            return data[:-1] + bytes((data[-1] ^ 1,)) if data[0] == codec.CLIENT_HELLO else data

        pair = support.run(policy, support.client(session=session), tamper=tamper)
        assert pair.alert == ("server", A.DECRYPT_ERROR)

    def test_certificate_verify_by_another_key(self) -> None:
        signed = support.authority().issue().signer.sign(0x0403, b"something else")
        pair = self.altered(codec.CERTIFICATE_VERIFY, "client", lambda m: codec.certificate_verify(0x0403, signed))
        assert pair.alert == ("client", A.DECRYPT_ERROR)

    def test_certificate_verify_by_a_scheme_of_another_kind_of_key(self) -> None:
        """RFC 8446 section 4.4.3: the scheme must be one of the leaf's key."""
        signed = support.chain("mldsa65").signer.sign(0x0905, b"something else")
        pair = self.altered(codec.CERTIFICATE_VERIFY, "client", lambda m: codec.certificate_verify(0x0905, signed))
        assert pair.alert == ("client", A.ILLEGAL_PARAMETER)

    def test_a_server_that_has_the_certificate_but_not_its_key(self) -> None:
        stolen, own = support.authority().issue(), support.authority().issue()
        pair = support.run(support.policy(dataclasses.replace(stolen, signer=own.signer)), support.client())
        assert pair.alert == ("client", A.DECRYPT_ERROR)
        assert pair.client.alert_reason == "CertificateVerify does not verify"

    def test_certificate_verify_with_a_scheme_that_was_not_offered(self) -> None:
        pair = self.altered(codec.CERTIFICATE_VERIFY, "client", lambda m: codec.certificate_verify(0x0201, bytes(64)))
        assert pair.alert == ("client", A.ILLEGAL_PARAMETER)

    def test_no_certificate(self) -> None:
        pair = self.altered(codec.CERTIFICATE, "client", lambda m: codec.certificate([]))
        assert pair.alert == ("client", A.DECODE_ERROR)

    def test_certificate_that_is_none(self) -> None:
        pair = self.altered(codec.CERTIFICATE, "client", lambda m: codec.certificate([b"no DER"]))
        assert pair.alert == ("client", A.BAD_CERTIFICATE)

    def test_skipped_certificate(self) -> None:
        def tamper(to: str, level: int, data: bytes) -> bytes | None:
            return None if data[0] in (codec.CERTIFICATE, codec.CERTIFICATE_VERIFY) else data

        assert support.run(support.policy(), tamper=tamper).alert == ("client", A.UNEXPECTED_MESSAGE)

    def server_hello(self, change: Callable[[dict[int, bytes]], None], suite: int = 0x1301) -> tuple[str, int] | None:
        def rewrite(m: bytes) -> bytes:
            parsed = codec_client.parse_server_hello(m)
            found = dict(parsed.extensions)
            change(found)
            block = b"".join(extension(kind, data) for kind, data in found.items())
            body = b"\x03\x03" + parsed.random + b"\0" + suite.to_bytes(2, "big") + b"\0" + opaque(block, 2)
            return message(codec.SERVER_HELLO, body)

        return self.altered(codec.SERVER_HELLO, "client", rewrite).alert

    def test_server_hello(self) -> None:
        share = codec.EXT_KEY_SHARE
        versions = codec.EXT_SUPPORTED_VERSIONS
        x25519 = kex.X25519.to_bytes(2, "big")
        cases: list[tuple[Callable[[dict[int, bytes]], object], int, AlertDescription]] = [
            (lambda e: e.pop(versions), 0x1301, A.PROTOCOL_VERSION),
            (lambda e: e.update({versions: b"\x03\x03"}), 0x1301, A.PROTOCOL_VERSION),
            (lambda e: e.pop(share), 0x1301, A.MISSING_EXTENSION),
            (lambda e: e.update({share: b"\x00\x19" + opaque(bytes(133), 2)}), 0x1301, A.ILLEGAL_PARAMETER),
            (lambda e: e.update({share: b"\x11\xed" + opaque(bytes(1665), 2)}), 0x1301, A.ILLEGAL_PARAMETER),
            (lambda e: e.update({share: x25519 + opaque(bytes(32), 2)}), 0x1301, A.ILLEGAL_PARAMETER),
            (lambda e: e.update({41: b"\0\0"}), 0x1301, A.ILLEGAL_PARAMETER),
            (lambda e: e.update({16: b"\0\x03\x02h3"}), 0x1301, A.UNSUPPORTED_EXTENSION),
            (lambda e: None, 0x1304, A.ILLEGAL_PARAMETER),
        ]
        for number, (change, suite, alert) in enumerate(cases):
            assert self.server_hello(change, suite) == ("client", alert), number  # type: ignore[arg-type]

    def test_retry_requests(self) -> None:
        """One that changes nothing, one for a group that was sent already, one for a group that was not offered."""

        def retry(group: int | None) -> Callable[[bytes], bytes]:
            def rewrite(m: bytes) -> bytes:
                if group is not None:
                    return codec.hello_retry_request(b"", 0x1301, group)
                body = b"\x03\x03" + codec.RETRY_RANDOM + b"\0\x13\x01\0" + opaque(b"\x00\x2b\x00\x02\x03\x04", 2)
                return message(codec.SERVER_HELLO, body)

            return rewrite

        for group in (None, kex.X25519, 0x0019):
            assert self.altered(codec.SERVER_HELLO, "client", retry(group)).alert == ("client", A.ILLEGAL_PARAMETER)

    def test_a_second_retry_request(self) -> None:
        client = ClientHandshake(support.client(), transport := RecordingTransport(), transport)
        client.start()
        for group, answer in ((kex.SECP384R1, -1), (kex.SECP256R1, A.UNEXPECTED_MESSAGE)):
            assert client.feed(Level.INITIAL, codec.hello_retry_request(b"", 0x1301, group)) == answer

    def test_encrypted_extensions(self) -> None:
        good = opaque(opaque(b"h3", 1), 2)
        cases = [
            ({16: opaque(opaque(b"h2", 1), 2), 57: b""}, A.NO_APPLICATION_PROTOCOL),
            ({57: b""}, A.NO_APPLICATION_PROTOCOL),
            ({16: opaque(opaque(b"h3", 1) * 2, 2), 57: b""}, A.NO_APPLICATION_PROTOCOL),
            ({16: good}, A.MISSING_EXTENSION),
            ({16: good, 57: b"", 42: b""}, A.UNSUPPORTED_EXTENSION),
            ({16: good, 57: b"", 51: b""}, A.UNSUPPORTED_EXTENSION),
        ]
        for found, alert in cases:
            block = b"".join(extension(kind, data) for kind, data in found.items())
            pair = self.altered(
                codec.ENCRYPTED_EXTENSIONS,
                "client",
                lambda m, b=block: message(8, opaque(b, 2)),  # type: ignore[misc]
            )
            assert pair.alert == ("client", alert), found


def test_an_internal_error_is_not_an_alert() -> None:
    """Other exceptions pass through: the engine closes with INTERNAL_ERROR and logs them."""

    class Broken(RecordingTransport):
        def local_parameters(self) -> bytes:
            raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        support.server(support.policy(), Broken()).feed(Level.INITIAL, hello())

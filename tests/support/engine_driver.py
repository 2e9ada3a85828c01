"""Drives any engine in memory: a virtual clock, a network that can be bad, and real QUIC clients at its far end.

    world = World("portable", loss=0.1, seed=7)
    client = world.connect()
    response = client.get("/bytes/1000")
    world.run(lambda: response.done)

Nothing sleeps and nothing depends on the machine's speed: time passes from one delivery or timer to the next. Every
test that ends with `World.close()` has also checked the conservation law of the verdicts (counters.py).
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
import ssl
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic import events as quic_events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from tests.support import tls as tls_support
from velocity_edge.http.requests import (
    Address,
    BodyReceived,
    ConnectionClosed,
    Event,
    FileRange,
    HandshakeCompleted,
    RequestReceived,
    Requests,
    StreamClosed,
    StreamWritable,
)
from velocity_edge.keys.ring import cid_configs
from velocity_edge.keys.table import EpochTable, first_table
from velocity_edge.quic.admission import AdmissionControl
from velocity_edge.quic.datagrams import Admission, EngineSettings, Initial, ServerTransport, Train
from velocity_edge.quic.engine_keys import engine_keys
from velocity_edge.quic.limits import Limits
from velocity_edge.quic.open_engine import native_missing, open_engine
from velocity_edge.quic.single_use import UsedTokens
from velocity_edge.tls.policy import ServerPolicy
from velocity_edge.tls.transport import Handshake
from velocity_edge.wire.counters import VERDICTS

ENGINES = ("portable", "native")
SERVER: Address = (b"\x0a\x00\x00\x01", 443)
NODE_ID = 0x0A0B0C0D
START_NS = 1_000_000_000_000
#: The wall clock of tokens and tickets when the virtual clock is START_NS; certificates are judged by the real one.
ROOT = bytes(range(32))


def require_engine(name: str) -> str:
    """Skip loudly when this machine has no such engine."""
    if name == "native" and (missing := native_missing()):
        pytest.skip(f"native engine: {missing}")
    return name


@dataclass
class Hooks:
    """`Upcalls` of a test server; each part can be replaced."""

    policy: ServerPolicy
    admission: AdmissionControl
    admit_with: Callable[[Initial], Admission] | None = None
    handshake_with: Callable[[ServerTransport], Handshake] | None = None
    initials: list[Initial] = field(default_factory=list)

    def admit(self, initial: Initial, now_ns: int) -> Admission:
        self.initials.append(initial)
        return self.admit_with(initial) if self.admit_with else self.admission.admit(initial, now_ns)

    def handshake(self, transport: ServerTransport) -> Handshake:
        if self.handshake_with:
            return self.handshake_with(transport)
        return self.admission.handshake(self.policy, transport)

    def address_token(self, peer: Address) -> bytes:
        return self.admission.address_token(peer)


class Application:
    """A little site. Answers what the path says, and keeps what happened."""

    def __init__(self, engine: Requests) -> None:
        self.engine = engine
        self.requests: list[RequestReceived] = []
        self.handshakes: list[HandshakeCompleted] = []
        self.closed: list[ConnectionClosed] = []
        self.stream_closed: list[StreamClosed] = []
        self.bodies: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        #: Fields after a request's body, by stream.
        self.trailers: dict[int, Any] = {}
        self.writable: list[int] = []
        #: The bound of the engine: a writer with another bound would wait for an event that never comes.
        self.send_high_bytes = Limits().send_high_bytes
        #: Streams whose bodies are kept but not credited.
        self.paths: dict[int, bytes] = {}
        self.handler: Callable[[RequestReceived], None] = self.respond_by_path
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the world
        self.file.write(pattern(4_000_000))
        self.file.flush()
        self._feeding: dict[int, int] = {}

    @property
    def fd(self) -> int:
        """This is also an `OpenFile`."""
        return self.file.fileno()

    def handle(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, RequestReceived) or event.kind == 1:
                self.requests.append(event)
                self.paths[event.stream] = event.path
                self.handler(event)
            elif event.kind == 2:
                self._body(event)
            elif event.kind == 3:
                self._writable(event)
            elif event.kind == 4:
                self.stream_closed.append(event)
            elif event.kind == 5:
                self.closed.append(event)
            else:
                self.handshakes.append(event)

    def respond_by_path(self, request: RequestReceived) -> None:
        engine, stream = self.engine, request.stream
        verb, _, number = request.path.decode().lstrip("/").partition("/")
        if verb == "bytes":
            body = pattern(int(number))
            engine.respond(stream, 200, [(b"content-length", str(len(body)).encode())], body)
        elif verb == "file":
            length = int(number)
            engine.respond(stream, 200, [(b"content-length", number.encode())], FileRange(self, 0, length))
        elif verb == "stream":
            engine.respond(stream, 200, [], None, fin=False)
            self._feeding[stream] = int(number)
            self._feed(stream)
        elif verb == "status":
            engine.respond(stream, int(number), [], None)
        elif verb in ("echo", "count", "deaf"):
            if request.fin:
                engine.respond(stream, 200, [], b"0")
        elif verb == "hang":
            pass
        else:
            engine.respond(stream, 404, [(b"content-type", b"text/plain")], b"no such thing\n")

    def _body(self, event: BodyReceived) -> None:
        body = self.bodies.setdefault(event.stream, bytearray())
        body += event.data
        path = self.paths[event.stream]
        if path != b"/deaf":
            self.engine.credit(event.stream, len(event.data))
        if event.fin:
            self.ended.add(event.stream)
            self.trailers[event.stream] = list(event.trailers)
            answer = bytes(body) if path == b"/echo" else str(len(body)).encode()
            self.engine.respond(event.stream, 200, [], answer)

    def _writable(self, event: StreamWritable) -> None:
        self.writable.append(event.stream)
        self._feed(event.stream)

    def _feed(self, stream: int) -> None:
        while self._feeding.get(stream, 0) > 0:
            piece = min(self._feeding[stream], 16_384)
            self._feeding[stream] -= piece
            buffered = self.engine.write(stream, bytes(piece), fin=self._feeding[stream] == 0)
            if buffered < 0:
                del self._feeding[stream]
            elif buffered > self.send_high_bytes:
                break


_PERIOD = bytes((i * 7 + (i >> 8)) & 0xFF for i in range(65_521))


def pattern(length: int) -> bytes:
    """Bytes in which a displaced piece shows."""
    return (_PERIOD * (length // len(_PERIOD) + 1))[:length]


# --- the world -------------------------------------------------------------------------------------------------------


@dataclass(order=True)
class _Delivery:
    at_ns: int
    number: int
    act: Callable[[], None] = field(compare=False)


class World:
    """One server engine, some clients, and what lies between them."""

    def __init__(
        self,
        engine: str,
        *,
        limits: Limits | None = None,
        worker_id: int = 7,
        live: frozenset[int] = frozenset((7,)),
        policy: ServerPolicy | None = None,
        delay_ms: float = 10.0,
        loss: float = 0.0,
        reorder: float = 0.0,
        duplicate: float = 0.0,
        seed: int = 1,
        gro: bool = True,
        congestion_control: str = "cubic",
        used_tokens: UsedTokens | None = None,
    ) -> None:
        require_engine(engine)
        self.limits = limits or Limits()
        self.worker_id = worker_id
        self.now_ns = START_NS
        self.random = random.Random(seed)
        self.delay_ns = int(delay_ms * 1e6)
        self.loss, self.reorder, self.duplicate, self.gro = loss, reorder, duplicate, gro
        self.table = first_table(ROOT, 0.0)
        # A handshake costs no CPU here: what is let in must not depend on how busy this machine is.
        self.used_tokens = used_tokens or UsedTokens.private(0.0)
        admission = AdmissionControl(
            self.table, NODE_ID, worker_id, self.limits, self.used_tokens, lambda: self.now_ns / 1e9, lambda: 0
        )
        self.hooks = Hooks(policy or tls_support.policy(), admission)
        settings = EngineSettings(worker_id, NODE_ID, self.limits, congestion_control)
        self.engine, self.reason = open_engine(engine, settings, self.hooks)  # type: ignore[arg-type]
        self.engine.use_keys(engine_keys(self.table))
        self.engine.use_roster(live)
        self.app = Application(self.engine)
        self.codec = keys_codec(self.table)
        self.strays: list[tuple[int, bytes]] = []
        self.sent: list[Train] = []
        self._batch = self.engine.batch()
        self._out = self.engine.batch()
        self._queue: list[_Delivery] = []
        self._number = itertools.count()
        self._clients: dict[Address, Any] = {}
        self._inbox: list[tuple[Address, bytes]] = []

    # --- clients ------------------------------------------------------------------------------------------------------

    def address(self) -> Address:
        """Return an unused address."""
        number = len(self._clients) + 1
        return (bytes((192, 0, 2, number % 250)), 20_000 + number)

    def attach(self, address: Address, peer: Any) -> None:
        """*peer* gets what the server sends to *address*: receive(datagram, now_s), flush(), timer_s()."""
        self._clients[address] = peer

    def move(self, old: Address, new: Address) -> None:
        """A NAT gave a client another address."""
        self._clients[new] = self._clients.pop(old)
        self._clients[new].address = new

    def connect(self, **options: Any) -> StockClient:
        """Return a stock aioquic client that has begun to connect."""
        client = StockClient(self, self.address(), **options)
        self.attach(client.address, client)
        client.start()
        return client

    def ready(self, **options: Any) -> StockClient:
        """Return a client whose handshake is complete on both sides."""
        client = self.connect(**options)
        self.run(lambda: client.quic._handshake_confirmed or client.terminated is not None)
        assert client.ready, client.terminated
        return client

    # --- datagrams ----------------------------------------------------------------------------------------------------

    def to_server(self, address: Address, datagram: bytes) -> None:
        """Send over the network."""
        self._cross(lambda: self._inbox.append((address, datagram)))

    def inject(self, address: Address, datagram: bytes, *, tos: int = 0, received_ns: int = 0) -> None:
        """Give the engine one datagram right now."""
        train = Train(datagram, len(datagram), address, SERVER, 0, tos, received_ns)
        self.give(train)

    def give(self, *trains: Train) -> None:
        """Give the engine these trains right now, and let it act."""
        for train in trains:
            if not self._batch.append(train):
                self._receive()
                assert self._batch.append(train)
        self._receive()
        self._after_engine()

    def _cross(self, deliver: Callable[[], None]) -> None:
        for _ in range(2 if self.random.random() < self.duplicate else 1):
            if self.random.random() < self.loss:
                continue
            late_ns = int(self.random.random() * 3 * self.delay_ns) if self.random.random() < self.reorder else 0
            at_ns = self.now_ns + self.delay_ns + late_ns
            heapq.heappush(self._queue, _Delivery(at_ns, next(self._number), deliver))

    # --- time ---------------------------------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool] | None = None, seconds: float = 60.0) -> bool:
        """Let time pass until the condition holds (True) or *seconds* have gone by or nothing is left to do (False)."""
        end_ns = self.now_ns + int(seconds * 1e9)
        self._flush_clients()
        self._after_engine()
        while until is None or not until():
            at_ns = self._next_ns()
            if at_ns is None or at_ns > end_ns:
                self.now_ns = end_ns if until is None or at_ns is not None else self.now_ns
                return until is not None and until()
            self.now_ns = max(self.now_ns, at_ns)
            self._step()
        return True

    def _next_ns(self) -> int | None:
        times = [self._queue[0].at_ns] if self._queue else []
        timer_ns = self.engine.next_timer_ns()
        if timer_ns is not None:
            times.append(timer_ns)
        for peer in self._clients.values():
            timer_s = peer.timer_s()
            if timer_s is not None:
                times.append(int(timer_s * 1e9) + 1)
        return min(times) if times else None

    def _step(self) -> None:
        while self._queue and self._queue[0].at_ns <= self.now_ns:
            heapq.heappop(self._queue).act()
        for train in self._trains():
            if not self._batch.append(train):
                self._receive()
                self._batch.append(train)
        self._receive()
        timer_ns = self.engine.next_timer_ns()
        if timer_ns is not None and timer_ns <= self.now_ns:
            self.app.handle(self.engine.expire(self.now_ns))
        self._after_engine()
        self._flush_clients()

    def _trains(self) -> Iterator[Train]:
        """Put what arrived together into trains, as GRO does: across connections, by lengths only."""
        inbox, self._inbox = self._inbox, []
        while inbox:
            address, first = inbox.pop(0)
            data, size = first, len(first)
            while self.gro and inbox and inbox[0][0] == address and len(inbox[0][1]) <= size:
                more = inbox.pop(0)[1]
                data += more
                if len(more) < size:
                    break
            yield Train(data, size, address, SERVER, 0)

    def _receive(self) -> None:
        if len(self._batch):
            self.app.handle(self.engine.receive(self._batch, self.now_ns))
            assert len(self._batch) == 0
            self.strays += self.engine.strays()

    def _after_engine(self) -> None:
        for _ in range(10_000):
            if not self.engine.send(self._out, self.now_ns):
                break
            for train in self._out:
                self.sent.append(train)
                for start in range(0, len(train.data), train.segment_size):
                    self._to_client(train.peer, bytes(train.data[start : start + train.segment_size]))
            self._out.clear()
        else:
            raise AssertionError("the engine never stops sending")

    def _to_client(self, address: Address, datagram: bytes) -> None:
        def deliver() -> None:
            peer = self._clients.get(address)
            if peer is not None:
                peer.receive(datagram, self.now_ns / 1e9)

        self._cross(deliver)

    def _flush_clients(self) -> None:
        for peer in list(self._clients.values()):
            peer.flush()

    # --- the end ------------------------------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        return self.engine.counters()

    def half_open(self) -> int:
        """Return how many handshakes run: each ends in exactly one of three ways."""
        count = self.counters()
        ended = ("handshakes_completed", "handshakes_failed", "handshakes_timed_out")
        return count["connections_opened"] - sum(count[name] for name in ended)

    def verdicts(self) -> dict[str, int]:
        """Return the verdicts that are not zero, without their prefix."""
        count = self.counters()
        return {name.removeprefix("verdict_"): count[name] for name in VERDICTS if count[name]}

    def close(self) -> None:
        """Check what must hold after any experiment."""
        count = self.counters()
        taken = count["datagrams_received"] + count["datagrams_injected"]
        assert taken == sum(count[name] for name in VERDICTS), self.verdicts()
        self.app.file.close()


def keys_codec(table: EpochTable) -> Any:
    from velocity_edge.wire.cid_codec import CidCodec

    return CidCodec(cid_configs(table))


# --- a client of the other kind --------------------------------------------------------------------------------------


@dataclass
class Response:
    """What came back on one stream."""

    stream_id: int
    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray, repr=False)
    done: bool = False
    reset: int | None = None
    interim: list[int] = field(default_factory=list)
    #: Fields of each informational response, and those after the body.
    interim_headers: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.done or self.reset is not None


class StockClient:
    """Stock aioquic without our code, so that an error of our code is not on both sides."""

    def __init__(
        self,
        world: World,
        address: Address,
        *,
        alpn: str = "h3",
        server_name: str = tls_support.NAME,
        token: bytes = b"",
        version: int = 1,
        supported_versions: list[int] | None = None,
        ticket: Any = None,
        make: type[QuicConnection] = QuicConnection,
        **configuration: Any,
    ) -> None:
        self.world, self.address = world, address
        config = QuicConfiguration(
            is_client=True,
            alpn_protocols=[alpn],
            server_name=server_name,
            token=token,
            session_ticket=ticket,
            **configuration,
        )
        config.verify_mode = ssl.CERT_NONE
        config.supported_versions = supported_versions or [version]
        self.tickets: list[Any] = []
        self.tokens: list[bytes] = []
        self.quic = make(
            configuration=config,
            session_ticket_handler=self.tickets.append,
            token_handler=self.tokens.append,
        )
        self.http: H3Connection | None = None
        self.ready = False
        self.handshake: Any = None
        self.terminated: Any = None
        self.responses: dict[int, Response] = {}
        self.received: list[bytes] = []
        self.events: list[Any] = []
        #: Receives, but sends nothing.
        self.paused = False
        #: Sends, but does not hear: for attacks that aioquic would not understand the answer to.
        self.deaf = False

    def start(self) -> None:
        self.quic.connect(("server", 443), now=self.world.now_ns / 1e9)

    # --- the driver's side --------------------------------------------------------------------------------------------

    def receive(self, datagram: bytes, now_s: float) -> None:
        self.received.append(datagram)
        if self.deaf:
            return
        self.quic.receive_datagram(datagram, ("server", 443), now_s)
        self._events()

    def flush(self) -> None:
        if self.paused:
            return
        now_s = self.world.now_ns / 1e9
        timer_s = self.timer_s()
        if timer_s is not None and timer_s <= now_s:
            self.quic.handle_timer(now_s)
            self._events()
        for datagram, _ in self.quic.datagrams_to_send(now_s) if self.quic._network_paths else ():
            self.world.to_server(self.address, datagram)

    def timer_s(self) -> float | None:
        if self.paused or self.terminated is not None or self.quic._close_at is None:
            return None
        timer: float | None = self.quic.get_timer()
        return timer

    def _events(self) -> None:
        while (event := self.quic.next_event()) is not None:
            self.events.append(event)
            if isinstance(event, quic_events.HandshakeCompleted):
                self.handshake, self.ready = event, True
                self.http = self.http or self.make_http()
            elif isinstance(event, quic_events.ConnectionTerminated):
                self.terminated = event
            elif isinstance(event, quic_events.StreamReset) and event.stream_id in self.responses:
                self.responses[event.stream_id].reset = event.error_code
            if self.http is not None:
                for http in self.http.handle_event(event):
                    self._http(http)
            if isinstance(event, quic_events.StreamDataReceived):
                self.consumed(event.stream_id, len(event.data))

    def make_http(self) -> H3Connection:
        return H3Connection(self.quic)

    def consumed(self, stream_id: int, n_bytes: int) -> None:
        """Stock aioquic gives credit by itself."""

    def _http(self, event: Any) -> None:
        response = self.responses.get(event.stream_id)
        if response is None:
            return
        if isinstance(event, HeadersReceived):
            headers = dict(event.headers)
            status = int(headers.pop(b":status", b"0"))
            if 100 <= status < 200:
                response.interim.append(status)
                response.interim_headers.append(list(event.headers)[1:])
            elif response.status:
                response.trailers = list(event.headers)
            else:
                response.status, response.headers = status, headers
        elif isinstance(event, DataReceived):
            response.body += event.data
        response.done = event.stream_ended

    # --- the test's side ----------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
        end: bool = True,
    ) -> Response:
        assert self.http is not None
        stream_id = self.quic.get_next_available_stream_id()
        response = self.responses[stream_id] = Response(stream_id)
        fields = [
            (b":method", method.encode()),
            (b":scheme", b"https"),
            (b":authority", tls_support.NAME.encode()),
            (b":path", path.encode()),
            *headers,
        ]
        self.http.send_headers(stream_id, fields, end_stream=end and body is None)
        if body is not None:
            self.http.send_data(stream_id, body, end)
        return response

    def get(self, path: str, **options: Any) -> Response:
        return self.request("GET", path, **options)

    def fetch(self, path: str, *, method: str = "GET", seconds: float = 60.0, **options: Any) -> Response:
        """Send a request and let time pass until it is answered."""
        response = self.request(method, path, **options)
        self.world.run(lambda: response.over or self.terminated is not None, seconds)
        return response

    def close(self, code: int = 0x100) -> None:
        self.quic.close(error_code=code)


def random_bytes(length: int) -> bytes:
    return os.urandom(length)

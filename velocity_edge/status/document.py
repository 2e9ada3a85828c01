"""The status document: the JSON of `GET /v1/status`, which the supervisor fills and the command line reads.

It has facts only; cli/status.py and banner.py decide what a person sees. Keys are added, never renamed; `api_version`
changes when one is removed. Long because it is one document.
"""

from __future__ import annotations

from typing import Final, NotRequired, TypedDict

API_VERSION: Final = 1


class Dispatch(TypedDict):
    """How packets find their worker."""

    #: "A" to "D", and the mode of that tier: socket-classic, socket-ebpf, xdp, xdp-cpumap.
    tier: str
    mode: str
    #: What the next tier needs, in words; empty in the highest tier.
    missing: str
    #: The programs were adopted from an earlier supervisor.
    adopted: bool
    interfaces: list[str]


class Certificate(TypedDict):
    """A certificate chain of the node."""

    name: str
    #: SHA-256 of the leaf, AB:CD:..., and base64(SHA-256(SubjectPublicKeyInfo)).
    fingerprint: str
    spki_pin: str
    #: Host names and addresses in it.
    names: list[str]
    #: Seconds since 1970.
    not_after_s: float
    self_signed: bool


class WorkerStatus(TypedDict):
    """One worker process."""

    worker_id: int
    slot: int
    core: int
    pid: int
    #: As in supervisor/node/lifecycle.py.
    state: str
    #: The version of its program; "" before its Hello. It differs from that of the node during an upgrade.
    version: str
    engine: str
    engine_reason: str
    connections: int
    half_open: int
    requests: int
    loop_lag_ms: float
    rss_bytes: int
    revision: int
    #: Seconds since it was started.
    age_s: float
    #: Seconds since its last heartbeat if that is late while the worker makes progress; else 0.
    silent_s: float


class Buffers(TypedDict):
    """Socket buffers that were requested and granted, in bytes."""

    receive_wanted: int
    receive_got: int
    send_wanted: int
    send_got: int


class KeyEpoch(TypedDict):
    """One epoch of the keys."""

    epoch: int
    age_s: float
    #: seals, announced (opens everywhere before it seals), opens, closed (only its connection IDs are needed).
    state: str
    #: When what it sealed expires; seconds since 1970. None: it seals, will seal, or never sealed here.
    opens_until_s: float | None
    #: Whether its connection IDs are decoded, and the connections that use one.
    ids_live: bool
    connections: int


class Keys(TypedDict):
    """The epoch table, without its secrets."""

    seal_with: int
    #: Epoch number (as text) -> age in seconds.
    ages_s: dict[str, float]
    #: Newest first.
    epochs: list[KeyEpoch]
    storage: str
    #: When new keys replaced lost ones, in seconds since 1970, and why; None and "": never.
    anew_at_s: float | None
    anew_reason: str


class Reload(TypedDict):
    """How the last reload ended."""

    revision: int
    ok: bool
    reason: str
    at_s: float
    took_s: float


class Connection(TypedDict):
    """A connection that a drain waits for."""

    worker_id: int
    site: str
    age_s: float
    requests: int


class Drain(TypedDict):
    """The drain that is under way, or the last one (supervisor/node/drain_contract.py)."""

    #: routes, arrivals, quiesce, live, cutting; drained, stopped_hard, resumed, node_stopped, failed.
    phase: str
    running: bool
    reason: str
    since_at_s: float
    phase_at_s: float
    #: When the remaining connections are closed.
    hard_stop_at_s: float
    #: New connections per second; None: not measured (yet). Arrivals are over when the rate stays below
    #: `settle_below_per_s` for `settle_s`; it has been for `quiet_s`.
    new_per_s: float | None
    settle_below_per_s: float
    settle_s: float
    quiet_s: float
    #: What ended the wait for arrivals: the measurement or the time limit.
    proof: str
    established: int
    in_handshake: int
    #: Connections that got both GOAWAYs, and requests in progress. Known from phase `quiesce` on.
    told: int
    running_requests: int
    #: Connections that end per second, and the seconds until none is left at this rate.
    decay_per_s: float | None
    eta_s: float | None
    #: Requests that were cut off, and connections.
    lost: int
    cut: int
    #: How it ended, and its exit code; empty and None while it runs.
    verdict: str
    exit_code: int | None


class Rollout(TypedDict):
    """The last rolling restart, or the one under way: of an operator, or of an upgrade."""

    #: bringing_up, handing_over, done, aborted: supervisor/node/rollout.py.
    state: str
    running: bool
    #: Workers to restart, and how many of them are done.
    total: int
    done: int
    #: Requests that drains cut off at their deadline.
    lost: int
    #: Why it was aborted.
    reason: str
    #: What it does now, in words.
    progress: str


class Pressure(TypedDict):
    """A rule by which the node defends itself now (velocity_edge/status/pressure.py)."""

    rule: str
    #: What the node does, to which peers, and the setting or limit behind it.
    text: str
    since_at_s: float
    #: Rate of the last seconds, and total since it began: packets, handshakes or requests, as the rule counts.
    per_s: float
    total: int


class Traffic(TypedDict):
    """The last minute, or what there is of it. Quantiles are None when nothing was measured."""

    window_s: float
    requests_per_s: float
    #: Responses with a status of 500 or more.
    errors_per_s: float
    handshakes_per_s: float
    #: Datagrams that the node dropped, by any stage.
    dropped_per_s: float
    sent_bytes_per_s: float
    p50_s: float | None
    p99_s: float | None
    handshake_p95_s: float | None
    #: Completed handshakes with a post-quantum group, of all; None without handshakes.
    pq_share: float | None


class Upstream(TypedDict):
    """One server that requests are proxied to. Numbers count since the start of the node."""

    upstream: str
    #: Workers that consider it healthy; None: unknown.
    healthy_workers: int | None
    requests: int
    errors_5xx: int
    #: Attempts without a complete response.
    failed: int
    retries: int
    ejections: int
    #: Connections.
    running: int
    idle: int
    p50_s: float | None
    p99_s: float | None


class NodeStatus(TypedDict):
    """A node. Times are seconds; `*_at_s` since 1970."""

    api_version: int
    #: starting, serving, quiesced, stopping ...: supervisor/node/lifecycle.py.
    state: str
    #: Since when, and why, where an operator gave a reason.
    state_at_s: float
    reason: str
    version: str
    pid: int
    node_id: int
    started_at_s: float
    #: Seconds since then by a clock that nobody sets.
    uptime_s: NotRequired[float]
    runtime_dir: str
    dispatch: Dispatch
    #: "0.0.0.0:4433", with the port that was bound where 0 was asked for.
    listeners: list[str]
    #: Key exchange groups, in order of preference.
    groups: list[str]
    metrics_listen: str
    certificates: list[Certificate]
    workers: list[WorkerStatus]
    drain: Drain | None
    #: The oldest connections of draining workers.
    left: list[Connection]
    #: The disable file exists: health checkers withdraw the routes.
    disabled: bool
    #: Workers that were restarted since the start of the node, and supervisors that adopted it.
    restarts: int
    adoptions: int
    #: Sums over all workers since the start of the node, by the names of velocity_edge/wire/counters.py.
    counters: dict[str, int]
    #: Stage (xdp, select, worker) -> verdict -> packets.
    packets: dict[str, dict[str, int]]
    buffers: Buffers
    keys: Keys
    last_reload: Reload | None
    #: Of this supervisor.
    rollout: Rollout | None
    #: Rules in force.
    pressure: list[Pressure]
    #: None: the supervisor has just started.
    traffic: NotRequired[Traffic | None]
    upstreams: NotRequired[list[Upstream]]
    #: What is wrong, one sentence each.
    degraded: list[str]

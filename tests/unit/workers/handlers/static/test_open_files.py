"""Open files are bounded: a client that reads nothing holds its share, others are served, a refusal is a 503."""

from __future__ import annotations

import errno
import gc
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_engine import FakeEngine, request
from tests.support.site import Clock, always, get, site_section, write
from velocity_edge.http.requests import FileRange, StreamClosed
from workers.handlers.static import multipart
from workers.handlers.static import site as static_module
from workers.handlers.static.beneath import Descriptor
from workers.handlers.static.files import SMALL_BYTES
from workers.handlers.static.open_files import SHARE, OpenFiles, default_limit
from workers.handlers.static.site import StaticHandler
from workers.serve.exchanges import Exchanges
from workers.serve.revision import Revision

LARGE = SMALL_BYTES + 1
FILES = 60


@pytest.fixture(name="site")
def _site(tmp_path: Path) -> Path:
    for number in range(FILES):
        write(tmp_path / f"{number}.bin", b"x" * LARGE)
    write(tmp_path / "small.txt", "small")
    return tmp_path


class Stage:
    """A site behind a worker's requests, with space for *limit* open files. The engine keeps every response."""

    def __init__(self, site: Path, limit: int) -> None:
        gc.collect()  # objects of other tests must not be counted
        before = Descriptor.alive
        self.root = Descriptor(os.open(site, os.O_PATH | os.O_DIRECTORY))
        self.open_files = OpenFiles(before + 1 + limit)
        # Half of the space, without the descriptors that are open already.
        self.before = before + 1
        self.static = StaticHandler(self.root, site_section(site), Clock(), open_files=self.open_files)
        self.engine = FakeEngine()
        self.exchanges = Exchanges(
            self.engine,
            lambda coroutine: coroutine.close(),  # type: ignore[arg-type, return-value]
            lambda: None,
            send_high_bytes=100,
            write_log=lambda lines: None,
            clock=Clock(),
            now_ns=lambda: 0,
            open_files=self.open_files,
        )
        self.exchanges.use(Revision(1, always(self.static)))
        self.streams = 0

    def get(self, connection: int, path: str, **options: Any) -> int:
        """Return the status of a new request."""
        self.streams += 1
        self.exchanges.handle([request(self.streams, path.encode(), connection=connection, **options)])
        return self.engine.answers[self.streams].status

    def close(self, stream: int) -> None:
        self.engine.answers[stream].file = None
        self.exchanges.handle([StreamClosed(stream, True, 0x100)])

    @property
    def opened(self) -> int:
        return Descriptor.alive - self.before


@pytest.fixture(name="stage")
def _stage(site: Path) -> Stage:
    return Stage(site, limit=40)


def test_a_connection_that_holds_many_files_is_refused_and_others_are_served(stage: Stage) -> None:
    """Regression: a connection that read nothing held one descriptor per stream, without a bound."""
    greedy = [stage.get(1, f"/{number}.bin") for number in range(FILES)]
    assert 200 in greedy
    assert 503 in greedy
    assert stage.opened <= 30
    refused = stage.exchanges.counts["open_files_refused"]
    assert refused == greedy.count(503)
    # Another client gets a new file, a file that is open already, and a small file.
    assert stage.get(2, f"/{FILES - 1}.bin") == 200
    assert stage.get(2, "/0.bin") == 200
    assert stage.get(2, "/small.txt") == 200
    assert stage.get(1, "/small.txt") == 200


def test_the_files_of_many_connections_are_bounded(stage: Stage) -> None:
    for connection in range(100):
        for number in range(FILES):
            stage.get(connection, f"/{number}.bin", headers=[(b"x", b"%d" % connection)])
            assert stage.opened <= 40
    assert stage.get(1000, "/small.txt") == 200


def test_an_open_file_is_shared_by_all_connections(stage: Stage) -> None:
    for connection in range(200):
        assert stage.get(connection, "/0.bin") == 200
    assert stage.opened <= 2


def test_the_end_of_a_stream_releases_its_file(stage: Stage) -> None:
    for number in range(FILES):
        stage.get(1, f"/{number}.bin")
    assert stage.get(1, "/50.bin") == 503
    for stream in range(1, stage.streams + 1):
        stage.close(stream)
    assert stage.exchanges._open_files.in_flight == {}
    assert stage.exchanges._open_files._held == {}
    assert stage.get(1, "/50.bin") == 200


def test_caches_release_descriptors_when_they_are_scarce(site: Path) -> None:
    stage = Stage(site, limit=40)
    for number in range(FILES):
        assert stage.get(1, f"/{number}.bin") == 200
        stage.close(stage.streams)
    assert stage.opened <= 22


def test_no_file_is_opened_at_the_limit(site: Path) -> None:
    gc.collect()
    before = Descriptor.alive + 1
    root = Descriptor(os.open(site, os.O_PATH | os.O_DIRECTORY))
    static = StaticHandler(root, site_section(site), Clock(), open_files=OpenFiles(before))
    answer = get(static, b"/0.bin")
    assert (answer.status, dict(answer.headers)[b"retry-after"]) == (503, b"1")
    assert get(static, b"/small.txt").status == 200


def test_multipart_responses_hold_their_file_and_are_bounded(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each keeps 256 KiB in memory for a client that reads nothing; the whole file needs no memory."""
    monkeypatch.setattr(static_module, "MAX_MULTIPARTS", multipart.Multipart.alive + 3)
    root = Descriptor(os.open(site, os.O_PATH | os.O_DIRECTORY))
    static = StaticHandler(root, site_section(site), Clock())
    answers = [get(static, b"/0.bin", (b"range", b"bytes=0-1,5000-5001")) for _ in range(5)]
    assert [answer.status for answer in answers] == [206, 206, 206, 200, 200]
    assert isinstance(answers[0].body, multipart.Multipart)
    assert isinstance(answers[0].body.file, Descriptor)
    assert isinstance(answers[4].body, FileRange)
    del answers[:2]
    assert get(static, b"/0.bin", (b"range", b"bytes=0-1,5000-5001")).status == 206
    assert get(static, b"/0.bin", (b"range", b"bytes=0-1")).status == 206


@pytest.mark.parametrize("soft", [64, 256, 1024, 1_048_576])
def test_the_limit_leaves_descriptors_for_everything_else(monkeypatch: pytest.MonkeyPatch, soft: int) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (soft, soft))
    assert soft // 2 <= default_limit() < soft
    assert soft // 4 > SHARE


def test_a_process_without_descriptors_answers_503(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(site, limit=40)

    def none_left(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("workers.handlers.static.files.open_beneath", none_left)
    assert stage.get(1, "/0.bin") == 503

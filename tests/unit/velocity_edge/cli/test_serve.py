"""Invariant: `serve` starts a supervisor only with a valid configuration, and passes exactly the flags."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from tests.support import tls as support
from velocity_edge.cli import main
from velocity_edge.cli.serve import interpreter

Serve = Callable[..., tuple[int, list[str], str]]


@pytest.fixture(name="serve")
def _serve(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Serve:
    """Run `serve` in a folder that contains `public`; return the exit code, the program it became, standard error."""
    (tmp_path / "public").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("VELOCITY_")]:
        monkeypatch.delenv(name)
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, program: became.append(program))

    def serve(*arguments: str) -> tuple[int, list[str], str]:
        became.clear()
        with pytest.raises(SystemExit) as ended:
            main(["serve", *arguments])
        return int(ended.value.code or 0), became[0] if became else [], capsys.readouterr().err

    return serve


def test_the_command_of_the_guide_becomes_a_supervisor(serve: Serve, tmp_path: Path) -> None:
    code, program, said = serve("--root", "public", "--self-signed", "--listen", "0.0.0.0:4433")
    assert (code, said) == (0, "")
    assert program[:5] == [sys.executable, "-I", "-m", "supervisor", "--set"]
    assert json.loads(program[5]) == {
        "server.listen": ["0.0.0.0:4433"],
        "server.tls.self_signed": True,
        "content.sites": [{"hostname": "*", "root": str(tmp_path / "public")}],
    }


def test_every_flag_sets_its_key(serve: Serve) -> None:
    flags = """
        --root public --index a.html --index b.html --listings --self-signed --domain a.test --domain b.test
        --listen 127.0.0.1:1 -l [::1]:1 --profile secure --workers 3 --engine portable --xdp eth0 --xdp eth1
        --user nobody --metrics-listen 127.0.0.1:9300 --access-log clf --log-level debug --log-format json
        --set server.limits.idle_timeout=1m --set dispatch.deny=[192.0.2.0/24]
    """
    _, program, _ = serve(*flags.split())
    overrides = json.loads(program[5])
    site = overrides.pop("content.sites")[0]
    assert (site["index"], site["listings"]) == (["a.html", "b.html"], True)
    assert overrides == {
        "server.listen": ["127.0.0.1:1", "[::1]:1"],
        "server.tls.self_signed": True,
        "server.tls.names": ["a.test", "b.test"],
        "server.profiles.default": "secure",
        "server.workers": 3,
        "server.engine": "portable",
        "server.user": "nobody",
        "server.telemetry.metrics_listen": "127.0.0.1:9300",
        "server.telemetry.access_log": "clf",
        "server.telemetry.structured_logs": True,
        "server.log_level": "debug",
        "server.limits.idle_timeout": "1m",
        "dispatch.mode": "xdp",
        "dispatch.interfaces": ["eth0", "eth1"],
        "dispatch.deny": ["192.0.2.0/24"],
    }


def test_a_configuration_is_passed_with_the_flags_that_override_it(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "server: {tls: {self_signed: true}, workers: 1}\ncontent: {sites: [{hostname: '*', root: public}]}\n"
    )
    code, program, said = serve("--config", "s.yaml", "--workers", "2")
    assert code == 0
    assert program[4:] == ["--set", '{"server.workers":2}', "--config", str(tmp_path / "s.yaml")]
    assert said == "velocity-edge: note: server.workers: --workers wins over s.yaml:1:36\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            "",
            78,
            "configuration: content.sites: cannot serve without content: give a directory with --root, or sites in",
        ),
        ("--root public", 78, "configuration: server.tls.certificate: cannot serve without a certificate: give --cert"),
        ("--root x --self-signed", 78, "--root: content.sites[0].root: cannot use {here}/x: No such file or directory"),
        ("--root public --cert a.pem", 78, "--cert: server.tls.certificate: cannot be used alone: needs"),
        ("--root public --cert a --key b", 78, "--cert: server.tls.certificate: cannot use {here}/a: No such file"),
        (
            "--root public --self-signed --cert a --key b",
            78,
            "--self-signed: server.tls.self_signed: cannot be combined",
        ),
        ("--root public --self-signed --listen 5", 78, "--listen: server.listen[0]: cannot use '5': must be an IP"),
        ("--root public --self-signed --set a.b=1", 78, "--set: a: cannot understand this key; known here: content,"),
        ("--root public --self-signed --set x", 2, "velocity-edge: cannot use --set 'x': expected KEY=VALUE"),
        (
            "--config s.yaml --root public",
            2,
            "velocity-edge: cannot combine --root with the sites of s.yaml: use one",
        ),
        ("--config s.yaml --index x", 2, "velocity-edge: cannot use --index or --listings without --root"),
        ("--edge-config e.yaml --self-signed", 78, "e.yaml: cannot read the configuration: No such file"),
        ("--root public --proxy http://x", 2, "velocity-edge: cannot combine --proxy with --root"),
        ("--config s.yaml --proxy http://x", 2, "velocity-edge: cannot combine --proxy with --config"),
        ("--root public --proxy-idle-timeout 5s", 2, "velocity-edge: cannot use --proxy-idle-timeout without --proxy"),
        ("--proxy http://x --proxy-preserve-host", 78, "configuration: server.tls.certificate: cannot serve without"),
        ("--proxy x --self-signed", 78, "--proxy: content.proxies[0].upstream: cannot use 'x': must be an address"),
        (
            "--proxy http://x --self-signed --proxy-connect-timeout 5x",
            78,
            "--proxy: content.proxies[0].timeouts.connect: cannot use '5x': must be a duration",
        ),
        ("--root public --serve-https", 5, "velocity-edge: --serve-https: cannot serve HTTP/2 and HTTP/1.1 yet"),
    ],
)
def test_an_invalid_configuration_starts_nothing(
    serve: Serve, tmp_path: Path, arguments: str, code: int, said: str
) -> None:
    (tmp_path / "s.yaml").write_text(
        "server: {tls: {self_signed: true}}\ncontent: {sites: [{hostname: '*', root: public}]}\n"
    )
    ended, program, err = serve(*arguments.split())
    assert (ended, program) == (code, [])
    assert any(line.startswith(said.format(here=tmp_path)) for line in err.splitlines()), err


def test_a_proxy_is_for_all_hosts(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELOCITY_PROXY_IDLE_TIMEOUT", "2m")
    flags = "--proxy-preserve-host --proxy-connect-timeout 1s --proxy-response-timeout 45s --proxy-tcp-keepalive 30s"
    code, program, said = serve("--self-signed", "--proxy", "http://127.0.0.1:8080", "--proxy-stream", *flags.split())
    assert (code, said) == (0, "")
    assert json.loads(program[5])["content.proxies"] == [
        {
            "hostname": "*",
            "upstream": "http://127.0.0.1:8080",
            "timeouts": {"connect": "1s", "response": "45s", "idle": "2m"},
            "tcp_keepalive": "30s",
            "preserve_host": True,
            "streaming": True,
        }
    ]


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_an_edge_configuration_is_passed_on(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    (tmp_path / "e.yaml").write_text("routes: [{match: {path: /}, action: {type: static}}]\n")
    if by == "variable":
        monkeypatch.setenv("VELOCITY_EDGE_CONFIG", "e.yaml")
    code, program, said = serve("--self-signed", *(["--edge-config", "e.yaml"] if by == "flag" else []))
    assert (code, said) == (0, "")
    assert program[6:] == ["--edge-config", str(tmp_path / "e.yaml")]


def test_dry_run_starts_nothing(serve: Serve) -> None:
    code, program, _ = serve("--root", "public", "--self-signed", "--dry-run")
    assert (code, program) == (0, [])


def test_a_node_that_is_started_through_a_symlink_keeps_using_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "bin").mkdir(parents=True)
        for program in ("python", "velocity-edge"):
            (tmp_path / name / "bin" / program).touch()
    (tmp_path / "current").symlink_to("a")
    (tmp_path / "velocity-edge").symlink_to("current/bin/velocity-edge")
    (tmp_path / "loop").symlink_to("loop")
    a = tmp_path / "a" / "bin" / "python"
    through = str(tmp_path / "current" / "bin" / "python")
    assert interpreter(tmp_path / "current" / "bin" / "velocity-edge", a) == through
    assert interpreter(tmp_path / "velocity-edge", a) == through, "as /usr/local/bin may have it"
    assert interpreter(tmp_path / "a" / "bin" / "velocity-edge", a) == str(a)
    for other in (tmp_path / "b" / "bin" / "velocity-edge", tmp_path / "loop", tmp_path / "gone", Path("-c")):
        assert interpreter(other, a) == str(a)


class TestFilesOfAChain:
    """`config lint` and `serve --dry-run` report errors of a chain and its key as a start would, with their place."""

    @pytest.fixture
    def lint(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
        chain = support.chain()
        (tmp_path / "c.pem").write_bytes(chain.certificates[0].public_bytes(Encoding.PEM))
        (tmp_path / "public").mkdir()

        def run(key: bytes, certificate: bytes | None = None) -> tuple[int, str]:
            (tmp_path / "k.pem").write_bytes(key)
            if certificate is not None:
                (tmp_path / "c.pem").write_bytes(certificate)
            file = tmp_path / "s.yaml"
            file.write_text(
                "server:\n  tls:\n    certificate: c.pem\n    private_key: k.pem\n"
                "content:\n  sites:\n    - {hostname: '*', root: public}\n"
            )
            codes = [ends(["config", "lint", str(file)]), ends(["serve", "--config", str(file), "--dry-run"])]
            assert codes[0] == codes[1]
            return codes[0], capsys.readouterr().err

        return run

    def test_a_matching_key_is_accepted(self, lint: Callable[..., tuple[int, str]]) -> None:
        assert lint(own_key()) == (0, "")

    @pytest.mark.parametrize(
        ("key", "said"),
        [
            (
                lambda: private_bytes(ec.generate_private_key(ec.SECP256R1())),
                "it is not the key of the first certificate",
            ),
            (
                lambda: private_bytes(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"x")),
                "encrypted",
            ),
            (
                lambda: private_bytes(ec.generate_private_key(ec.SECP256R1()), encoding=Encoding.DER),
                "it is DER, not PEM",
            ),
            (lambda: b"", "not an unencrypted PEM private key"),
        ],
    )
    def test_an_unusable_key_is_refused(
        self, lint: Callable[..., tuple[int, str]], tmp_path: Path, key: Callable[[], bytes], said: str
    ) -> None:
        code, err = lint(key())
        assert code == 78
        for line in err.splitlines():
            assert f"s.yaml:4:5: server.tls.private_key: cannot use {tmp_path / 'k.pem'}: " in line
            assert said in line

    def test_an_unusable_certificate_is_refused(self, lint: Callable[..., tuple[int, str]]) -> None:
        leaf = support.chain().certificates[0]
        for data, said in (
            (leaf.public_bytes(Encoding.DER), "it is DER, not PEM; `openssl x509 -inform DER"),
            (b"hello", "no PEM certificate in it"),
            (leaf.public_bytes(Encoding.PEM).replace(b"MII", b"MI_"), "a certificate in it cannot be read"),
        ):
            code, err = lint(own_key(), data)
            assert code == 78
            assert "s.yaml:3:5: server.tls.certificate: cannot use" in err
            assert said in err

    def test_an_expired_certificate_is_a_note(self, lint: Callable[..., tuple[int, str]]) -> None:
        chain = support.authority().issue(days=-1)
        key = private_bytes(chain.signer._key)  # type: ignore[attr-defined]
        code, err = lint(key, chain.certificates[0].public_bytes(Encoding.PEM))
        assert code == 0
        assert err.count("expired on") == 2

    def test_a_pipe_is_refused_without_reading_it(self, lint: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
        (tmp_path / "c.pem").unlink()
        os.mkfifo(tmp_path / "c.pem")
        code, err = lint(own_key())
        assert code == 78
        assert f"cannot use {tmp_path / 'c.pem'}: must be a file" in err


def ends(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def own_key() -> bytes:
    return private_bytes(support.chain().signer._key)  # type: ignore[attr-defined]


def private_bytes(
    key: ec.EllipticCurvePrivateKey,
    encryption: KeySerializationEncryption | None = None,
    encoding: Encoding = Encoding.PEM,
) -> bytes:
    return key.private_bytes(encoding, PrivateFormat.PKCS8, encryption or NoEncryption())

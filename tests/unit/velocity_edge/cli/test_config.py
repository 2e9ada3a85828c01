"""`config lint` reports what a start would, for both files; `diff` names what changed and what a reload would do."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support import tls as support
from tests.support.pretend_admin import PretendAdmin
from velocity_edge.cli import main
from velocity_edge.config.load import load

Run = Callable[..., tuple[int, str, str]]

MAIN = """\
server: {tls: {self_signed: true}}
content:
  sites: [{hostname: example.com, root: public}]
"""


@pytest.fixture(name="run")
def _run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `config` in a folder that contains `public` and `main.yaml`; return code, output and errors."""
    (tmp_path / "public").mkdir()
    (tmp_path / "main.yaml").write_text(MAIN)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["config", *arguments])
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def proxied(folder: Path, upstream: str) -> str:
    (folder / "proxy.yaml").write_text(f"{MAIN}  proxies:\n    - hostname: api.example.com\n{upstream}")
    return "proxy.yaml"


# --- lint


def test_both_files_are_checked_together(run: Run, tmp_path: Path) -> None:
    (tmp_path / "edge.yaml").write_text("routes: [{match: {path: /x}, action: {type: static}}]\n")
    assert run("lint", "main.yaml", "--edge-config", "edge.yaml") == (0, "main.yaml with edge.yaml: ok\n", "")
    (tmp_path / "edge.yaml").write_text("routes: [{match: {path: /x}, action: {type: file, path: none/x}}]\n")
    code, _, said = run("lint", "main.yaml", "--edge-config", "edge.yaml")
    place = "edge.yaml:1:51: content.routes[0].action.path"
    assert (code, said) == (78, f"{place}: cannot use {tmp_path}/none: No such file or directory\n")
    assert run("lint", "main.yaml", "--edge-config", "edge.yaml", "--shape-only")[0] == 0
    # Alone it needs no certificate, which the other file has; its keys tell what it is.
    (tmp_path / "edge.yaml").write_text("routes: [{match: {path: /x}, action: {type: static}}]\n")
    assert run("lint", "edge.yaml") == run("lint", "--edge-config", "edge.yaml") == (0, "edge.yaml: ok\n", "")
    (tmp_path / "edge.yaml").write_text("routes: [{match: {path: /x}, action: {type: static, stats: 1}}]\n")
    assert run("lint", "edge.yaml")[0] == 78


def test_an_unused_middleware_is_a_note(run: Run, tmp_path: Path) -> None:
    (tmp_path / "edge.yaml").write_text("middlewares: [{name: auth, kind: headers}]\n")
    code, out, said = run("lint", "main.yaml", "--edge-config", "edge.yaml")
    assert (code, out) == (0, "main.yaml with edge.yaml: ok\n")
    assert "note: content.middlewares: 'auth' is used by no site, proxy or route" in said


def test_nothing_to_check_is_a_wrong_use(run: Run) -> None:
    assert run("lint")[0] == 2


def test_names_of_upstreams_are_resolved(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str, *_: object, **__: object) -> None:
        assert name == "nowhere.invalid"
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    file = proxied(tmp_path, "      upstreams: ['http://127.0.0.1:1', 'http://nowhere.invalid']\n")
    code, _, said = run("lint", file)
    assert code == 78
    assert said.startswith(
        "proxy.yaml:6:41: content.proxies[0].upstreams[1].url: cannot resolve 'nowhere.invalid': Name or service not"
    )
    assert run("lint", file, "--shape-only")[0] == 0


def test_the_tls_files_of_upstreams_are_loaded(run: Run, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "c.pem").write_bytes(support.chain().certificates[0].public_bytes(Encoding.PEM))
    (tmp_path / "k.pem").write_bytes(key)
    (tmp_path / "text").write_text("no certificate")
    tls = "      upstream: https://127.0.0.1\n      tls: {certificate: c.pem, private_key: k.pem, ca: text}\n"
    code, _, said = run("lint", proxied(tmp_path, tls))
    lines = said.splitlines()
    assert code == 78
    assert lines[0].startswith(f"proxy.yaml:7:33: content.proxies[0].tls.private_key: cannot use {tmp_path}/k.pem with")
    assert "key values mismatch" in lines[0]
    assert lines[1].startswith(f"proxy.yaml:7:53: content.proxies[0].tls.ca: cannot use {tmp_path}/text: ")


# --- show, schema


def test_show_names_both_files_as_origins(run: Run, tmp_path: Path) -> None:
    (tmp_path / "edge.yaml").write_text("routes: [{match: {path: /x}, action: {type: static}}]\n")
    _, out, _ = run("show", "-c", "main.yaml", "--edge-config", "edge.yaml", "--origin")
    lines = {line.split(" = ")[0]: line.rpartition("# ")[2] for line in out.splitlines()}
    assert lines["content.sites[0].hostname"] == "main.yaml:3:12"
    assert lines["content.routes[0].match.path"] == "edge.yaml:1:19"


def test_no_secret_is_printed(run: Run, tmp_path: Path) -> None:
    """Not by show, as text or JSON, and not by diff, which still says that it differs."""
    for name, secret in (("a", "first-s3cret"), ("b", "other-s3cret")):
        text = "middlewares:\n  - {name: m, everywhere: true, kind: oidc, issuer: https://a.test, client_id: edge, "
        (tmp_path / f"{name}.yaml").write_text(f"{text}client_secret: {secret}}}\n")
    for arguments in (
        ("show", "-c", "main.yaml", "--edge-config", "a.yaml"),
        ("show", "-c", "main.yaml", "--edge-config", "a.yaml", "--json"),
        ("diff", "main.yaml", "main.yaml", "--edge-config", "b.yaml", "--edge-before", "a.yaml"),
        ("diff", "main.yaml", "main.yaml", "--edge-config", "b.yaml", "--edge-before", "a.yaml", "--json"),
    ):
        code, out, err = run(*arguments)
        assert "s3cret" not in out + err
        assert "client_secret" in out
        assert code == (1 if arguments[0] == "diff" else 0)


def test_the_schema_has_the_descriptions_of_the_keys(run: Run) -> None:
    code, out, _ = run("schema")
    schema = json.loads(out)
    assert (code, schema["$schema"]) == (0, "https://json-schema.org/draft/2020-12/schema")
    assert schema["$defs"]["Site"]["properties"]["root"]["description"].startswith("The directory.")
    edge = json.loads(run("schema", "--edge")[1])
    assert set(edge["properties"]) == {"templates_dir", "middlewares", "rate_limit", "waf", "routes"}


# --- diff

OTHER = """\
server: {tls: {self_signed: true}, workers: 3, engine: portable, listen: "127.0.0.1:1"}
content:
  routes: [{match: {path: /x, methods: GET}, action: {type: static, body: hi}}]
  sites: [{hostname: example.com, root: public, listings: true, index: index.html}]
"""


def test_diff_tells_what_a_reload_would_do(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(OTHER)
    code, out, _ = run("diff", "main.yaml", "other.yaml")
    found = [line.split("  ")[0] + " # " + line.rpartition("# ")[2] for line in out.splitlines()]
    assert code == 1
    assert found == [
        "~ server.listen = ['0.0.0.0:4433'] -> ['127.0.0.1:1'] # restart needed",
        "~ server.engine = 'auto' -> 'portable' # workers replaced",
        "~ content.sites[example.com].listings = False -> True # live",
        "+ server.workers = 3 # workers started or stopped",
        *(line for line in found if line.startswith("+ content.routes[GET /x]")),
    ]
    assert any(line.startswith("+ content.routes[GET /x].action.body = 'hi'") for line in found)
    assert run("diff", "main.yaml", "main.yaml") == (0, "no difference\n", "")


def test_diff_with_the_running_node(run: Run, tmp_path: Path, node: PretendAdmin) -> None:
    facts: dict[str, Any] = {"revision": 4, "config": load(tmp_path / "main.yaml", environment={}).to_json()}
    node.answers["/v1/config"] = [{"text": "revision 4 is in use", "exit_code": 0, **facts}]
    assert run("diff", "main.yaml") == (0, "no difference\n", "")
    (tmp_path / "main.yaml").write_text(MAIN + "  middlewares: [{name: h, kind: headers}]\n")
    code, out, _ = run("diff", "main.yaml", "--json")
    assert code == 1
    assert {"key": "content.middlewares[h].kind", "before": None, "after": "headers", "effect": "live"} in json.loads(
        out
    )

"""Invariant: flags take precedence over the environment, which takes precedence over the file; origins are recorded."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.config import reference
from velocity_edge.config.env import VARIABLES
from velocity_edge.config.limits import LimitsSection
from velocity_edge.config.load import load, load_with_origins
from velocity_edge.config.model import Config
from velocity_edge.config.section import Section
from velocity_edge.config.tree import parse, widen_dashes
from velocity_edge.config.values import format_address, parse_address, parse_duration, parse_size
from velocity_edge.errors import ConfigError
from velocity_edge.quic.limits import Limits
from velocity_edge.wire.messages import Listener

ROOT = Path(__file__).parents[4]
GUIDE = Path(__file__).parent / "serve.simple.yaml"


def test_the_example_of_the_guide_has_the_expected_values() -> None:
    config = load(GUIDE, environment={})
    assert config.server.addresses == [Listener("0.0.0.0", 4433)]
    assert config.server.tls.certificate == Path("/etc/velocity/certs/fullchain.pem")
    assert config.server.profiles.permit == ["light", "balanced", "secure"]
    assert config.server.telemetry.metrics_listen == "127.0.0.1:9300"
    assert config.server.telemetry.structured_logs is True
    (site,) = config.content.sites
    assert (site.hostname, site.root, site.index) == ("example.com", Path("/srv/www/example"), ["index.html"])
    assert site.cache_control == "public, max-age=60"
    assert (config.tickets.max_age_s, config.tickets.rotate_after_s) == (86400.0, 43200.0)
    assert config.tickets.storage == Path("/var/lib/velocity/tickets.json")


def test_the_proxies_of_the_guide_have_the_expected_values() -> None:
    (proxy,) = load(GUIDE, environment={}).content.proxies
    assert (proxy.hostname, proxy.path, proxy.preserve_host) == ("api.example.com", "/", True)
    assert [str(url) for _, url in proxy.servers()] == ["http://127.0.0.1:8080"]
    assert (proxy.timeouts.connect_s, proxy.timeouts.response_s, proxy.timeouts.idle_s) == (5.0, 45.0, 120.0)


def test_widening_changes_only_entries_whose_siblings_are_indented_deeper() -> None:
    assert widen_dashes("- a: 1\n   b: 2\n") == "-  a: 1\n   b: 2\n"
    assert widen_dashes("- a:\n      x: 1\n   b: 2\n") == "-  a:\n      x: 1\n   b: 2\n"
    for right in ("- a: 1\n  b: 2\n", "- a:\n    x: 1\n", "- a: 1\n- b: 2\n", "- plain\n- 'a: b'\n"):
        assert widen_dashes(right) == right


def test_valid_yaml_is_never_changed() -> None:
    # Valid YAML, in which "b" continues the text of "a".
    assert parse("x:\n- a: one\n    two\n", "f").values == {"x": [{"a": "one two"}]}


def test_an_error_in_a_file_with_widened_dashes_has_its_own_position() -> None:
    with pytest.raises(ConfigError, match=r"^f:5:"):
        parse("s:\n   - a: 1\n      b: 2\nt:\n  - [", "f")


def test_file_then_environment_then_flags(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("server:\n  listen: 127.0.0.1:1\n  workers: 1\n  log_level: debug\n  engine: portable\n")
    environment = {
        "VELOCITY_LISTEN": "127.0.0.1:2, [::1]:2",
        "VELOCITY_WORKERS": "2",
        "VELOCITY_PORT": "tcp://10.0.0.1:1",
    }
    loaded = load_with_origins(
        file, {"server.workers": 3}, environment=environment, flags={"server.workers": "--workers"}
    )
    server = loaded.config.server
    assert (server.listen, server.workers, server.log_level) == (["127.0.0.1:2", "[::1]:2"], 3, "debug")
    assert loaded.origins["server", "listen"] == "VELOCITY_LISTEN"
    assert loaded.origins["server", "workers"] == "--workers"
    assert loaded.origins["server", "log_level"] == f"{file}:4:3"
    assert loaded.notes == [
        f"server.listen: VELOCITY_LISTEN wins over {file}:2:3",
        f"server.workers: VELOCITY_WORKERS wins over {file}:3:3",
        "server.workers: --workers wins over VELOCITY_WORKERS",
    ]


def test_an_error_names_the_variable_or_flag_that_set_the_value() -> None:
    with pytest.raises(
        ConfigError, match=r"^VELOCITY_WORKERS: server.workers: cannot use 'x': must be a whole number$"
    ):
        load(None, environment={"VELOCITY_WORKERS": "x"})
    with pytest.raises(ConfigError, match=r"^VELOCITY_LISTEN: server.listen\[0\]: cannot use 'x'"):
        load(None, environment={"VELOCITY_LISTEN": "x"})
    with pytest.raises(ConfigError, match=r"^--engine: server.engine: cannot use 'x'"):
        load(None, {"server.engine": "x"}, environment={}, flags={"server.engine": "--engine"})
    with pytest.raises(ConfigError, match=r"^flag server.engine: server.engine: cannot use 'x'"):
        load(None, {"server.engine": "x"}, environment={})


def test_every_variable_sets_a_key_that_exists() -> None:
    samples = {"server.workers": "1", "server.node_id": "1", "server.listen": "127.0.0.1:1"}
    samples |= {"server.telemetry.metrics_listen": "127.0.0.1:1", "server.engine": "auto", "dispatch.mode": "xdp"}
    samples |= {"server.profiles.default": "light", "server.log_level": "info", "server.log_levels": "tls=info"}
    samples |= {"server.tls.private_key": "x"}
    for variable, (key, _) in VARIABLES.items():
        environment = {variable: samples.get(key, "true")}
        if key in ("server.tls.certificate", "server.tls.private_key"):
            environment = {"VELOCITY_CERT": "a", "VELOCITY_KEY": "b"}
        assert tuple(key.split(".")) in load_with_origins(None, environment=environment).origins


def test_paths_in_a_file_are_relative_to_its_directory(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("content:\n  sites:\n    - {hostname: a, root: www}\n    - {hostname: b, root: /srv}\n")
    assert [s.root for s in load(file, environment={}).content.sites] == [tmp_path / "www", Path("/srv")]


def test_telemetry_is_accepted_at_the_top_level(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("telemetry:\n  metrics_listen: 127.0.0.1:9300\n")
    assert load(file, environment={}).server.telemetry.metrics_listen == "127.0.0.1:9300"


@pytest.mark.parametrize("text", ["", "server:\n", "server:\n  limits:\n  tls:\n", "# nothing\n"])
def test_empty_sections_are_defaults(tmp_path: Path, text: str) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(text)
    assert load(file, environment={}) == Config()


def test_the_word_no_is_text_for_a_text_key(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("content:\n  sites:\n    - {hostname: no, root: x}\n")
    assert load(file, environment={}).content.sites[0].hostname == "no"


def test_a_resolved_configuration_survives_json(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(
        "server: {listen: '[::]:0', limits: {idle_timeout: 1m}}\ndispatch: {deny: 2001:db8::/32}\n"
        "content: {sites: [{hostname: '*', root: www, error_pages: {404: e.html}}]}\n"
    )
    config = load(file, environment={})
    there = orjson.loads(orjson.dumps(config.to_json()))
    assert Config.from_json(there) == config
    assert Config.from_json(orjson.dumps(there)) == config
    assert config.server.limits.limits() == Limits(idle_timeout_s=60.0)


def test_unknown_keys_of_a_later_supervisor_are_ignored_and_missing_ones_get_defaults() -> None:
    config = Config()
    later = config.to_json()
    later["from_the_future"] = {"on": True}
    later["server"]["limits"]["from_the_future"] = 1
    later["content"]["sites"] = [{"hostname": "*", "root": "/srv", "from_the_future": []}]
    assert Config.from_json(later).content.sites[0].root == Path("/srv")
    earlier = config.to_json()
    del earlier["tickets"], earlier["server"]["limits"]["max_connections"]
    assert Config.from_json(earlier) == config


def test_every_limit_has_a_key() -> None:
    assert set(LimitsSection.model_fields) == {field.name for field in fields(Limits)}
    assert Config().server.limits.limits() == Limits()


def test_every_key_is_documented() -> None:
    def sections(section: type[Section]) -> list[type[Section]]:
        return [section, *(s for sub in section.__subclasses__() for s in sections(sub))]

    for section in sections(Section):
        assert section.__doc__
        for name, info in section.model_fields.items():
            plain = not re.search(r"velocity_edge\.config", str(info.annotation))
            assert info.description or not plain or name == "timeouts", f"{section.__name__}.{name} has no sentence"


def test_the_reference_in_the_docs_is_current() -> None:
    document = ROOT / "docs" / "configuration.md"
    assert document.read_text() == reference.document(), "run: python -m velocity_edge.config.reference"


def test_workers_do_not_import_a_yaml_parser() -> None:
    """ruamel.yaml would cost each worker memory and start-up time."""
    program = "import sys, workers.process.worker; sys.exit('ruamel.yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


@given(st.integers(0, 10**7))
def test_durations_and_sizes_are_parsed(number: int) -> None:
    assert parse_duration(f"{number}s") == parse_duration(number) == float(number)
    assert parse_duration(f"{number}ms") == pytest.approx(number / 1000)
    assert parse_duration(f"1h{number}m") == 3600 + number * 60
    assert parse_size(f"{number}KiB") == number * 1024
    assert parse_size(f"{number} MB") == number * 10**6


@given(st.ip_addresses(), st.integers(0, 65535))
def test_addresses_survive_formatting(ip: IPv4Address | IPv6Address, port: int) -> None:
    scoped = ip.version == 6 and ip.is_link_local
    address = Listener(f"{ip}%eth0.7" if scoped else str(ip), port)
    assert parse_address(format_address(address)) == address
    assert format_address(replace(address, transport="tcp")) == f"{format_address(address)}/tcp"

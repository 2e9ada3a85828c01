"""Every file and directory that a section names is opened once, or refused with the key that names it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from supervisor.machine import materials
from velocity_edge.config.load import Loaded
from velocity_edge.config.model import Config
from velocity_edge.config.needs import files_of
from velocity_edge.config.servable import check
from velocity_edge.errors import ConfigError


def config(folder: Path, **content: Any) -> Config:
    """Return a configuration that names a site, templates, a file of an action, and TLS files of an upstream."""
    for name in ("ca.pem", "page.html"):
        (folder / name).write_text("x")
    for name in ("site", "templates"):
        (folder / name).mkdir(exist_ok=True)
    file = {"match": {"path": "/f"}, "action": {"type": "file", "path": str(folder / "page.html")}}
    proxied = {"hostname": "p", "upstream": "https://127.0.0.1", "tls": {"ca": str(folder / "ca.pem")}}
    whole = {
        "sites": [{"hostname": name, "root": str(folder / "site")} for name in ("a", "b")],
        "routes": [file],
        "proxies": [proxied],
        "templates_dir": str(folder / "templates"),
        **content,
    }
    return Config.from_json({"server": {"tls": {"self_signed": True}}, "content": whole})


def test_each_path_is_needed_once_with_the_key_that_names_it(tmp_path: Path) -> None:
    found = {need.path.name: (need.kind, need.where) for need in files_of(config(tmp_path)) if need.required}
    assert found == {
        "site": ("directory", ("content", "sites", "0", "root")),
        "templates": ("directory", ("content", "templates_dir")),
        tmp_path.name: ("directory", ("content", "routes", "0", "action", "path")),
        "ca.pem": ("file", ("content", "proxies", "0", "tls", "ca")),
    }


def test_files_are_opened_for_reading_and_directories_only_as_places(tmp_path: Path) -> None:
    made = materials.gather(1, config(tmp_path), tmp_path / "state")
    try:
        kinds = {Path(path).name: stat.S_ISDIR(os.fstat(fd).st_mode) for path, fd in made.roots.items()}
        assert (kinds["ca.pem"], kinds["templates"], kinds["site"]) == (False, True, True)
        assert os.pread(made.roots[str(tmp_path / "ca.pem")], 10, 0) == b"x"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.listdir(made.roots[str(tmp_path / "site")])
    finally:
        made.close()


@pytest.mark.parametrize("broken", ["missing", "directory", "fifo"])
def test_a_file_that_is_none_is_refused_by_lint_and_by_a_start(tmp_path: Path, broken: str) -> None:
    whole = config(tmp_path)
    (tmp_path / "ca.pem").unlink()
    if broken == "directory":
        (tmp_path / "ca.pem").mkdir()
    elif broken == "fifo":
        os.mkfifo(tmp_path / "ca.pem")
    said = "No such file or directory" if broken == "missing" else "must be a file"
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigError, match=rf"content.proxies\[0\].tls.ca: cannot use .*/ca.pem: {said}"):
        check(Loaded(whole))
    with pytest.raises(ConfigError, match=rf"content.proxies\[0\].tls.ca: cannot use .*/ca.pem: {said}"):
        materials.gather(1, whole, tmp_path / "state")
    assert len(os.listdir("/proc/self/fd")) == before

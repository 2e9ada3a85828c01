"""Generates docs/configuration.md from the model: `python -m velocity_edge.config.reference`.

A test checks that the file is current.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from velocity_edge.config.env import VARIABLES
from velocity_edge.config.model import Config
from velocity_edge.config.unions import said_by, sections_in, tags
from velocity_edge.config.values import Written

_HEAD: Final = """\
# Configuration

Generated from `velocity_edge/config/` by `python -m velocity_edge.config.reference`; do not edit.

A configuration is a YAML file (`velocity-edge serve --config serve.yaml`), a second one with routes and middlewares
(`--edge-config edge.yaml`, docs/edge.md), the environment, and flags; later ones take precedence. Unknown and repeated
keys are errors with a position: `serve.yaml:3:4: server.lisen: cannot understand this key; did you mean "listen"?`.
`velocity-edge config lint FILE` checks a file, `config show --origin` prints the effective configuration and the origin
of each value, `config schema` a JSON Schema for editors, `config diff` what a reload would change.

Durations are written `500ms`, `5s`, `2m`, `1h30m`, `24h`, `7d`; sizes `64KiB`, `1MiB`, `10MB` or in bytes. Paths
in a file are relative to the directory of that file.

The smallest usable file:

```yaml
server:
  listen: "0.0.0.0:4433"
  tls:
    self_signed: true
content:
  sites:
    - hostname: "*"
      root: /srv/www
```

Keys marked "not implemented yet" are known, because the deployment guide names them, and refused unless they have their
default.
"""


def document() -> str:
    """Return the text of docs/configuration.md."""
    lines = [_HEAD, *_section(Config, "")]
    lines += ["## Environment variables", "", "| variable | key |", "| --- | --- |"]
    lines += [f"| `{variable}` | `{key}` |" for variable, (key, _) in VARIABLES.items()]
    lines += [
        "",
        "Options of `serve` have variables, too: `--edge-config` and those that begin with `--proxy` (`serve --help`),",
        "in capital letters: `--proxy-idle-timeout` is `VELOCITY_PROXY_IDLE_TIMEOUT`.",
        "",
        "`VELOCITY_RUNTIME_DIR`, `VELOCITY_STATE_DIR` and `VELOCITY_CACHE_DIR` select the directories of a node",
    ]
    lines += ["(velocity_edge/paths.py). Other variables that begin with `VELOCITY_` are ignored."]
    return "\n".join(lines) + "\n"


def _heading(path: str) -> str:
    name, space, variant = path.partition(" ")
    return f"## `{name}`{space}{variant}"


def _section(section: type[BaseModel], path: str) -> Iterator[str]:
    rows, deeper = [], []
    for name, info in section.model_fields.items():
        key = info.alias or name
        models = sections_in(info)
        if models and (path or not info.description):
            many = {list: "[]", dict: ".NAME"}.get(get_origin(info.annotation) or str, "")
            below = f"{path}.{key}{many}" if path else key
            deeper += [(model, f"{below}{_variant(info, model)}") for model in models]
        else:
            rows.append(f"| `{key}` | {_type(info)} | {_default(info)} | {_flat(info.description or '')} |")
    if path:
        yield from (f"{_heading(path)}", "", _flat(section.__doc__ or ""), "")
        if rows:
            yield from ("| key | type | default | |", "| --- | --- | --- | --- |", *rows, "")
    for model, below in deeper:
        yield from _section(model, below)


def _variant(info: FieldInfo, model: type[BaseModel]) -> str:
    """Return which member of a union *model* is, such as " (type: static)"."""
    key = said_by(info)
    return f" ({key}: {tags(model, key)[0]})" if key else ""


def _type(info: FieldInfo) -> str:
    words = [m.as_ for m in info.metadata if isinstance(m, Written)] or _words(info.annotation)
    return "list of " + " ".join(words) if get_origin(info.annotation) is list else " ".join(words)


def _words(annotation: Any) -> list[str]:
    """Return how the values of a type are written: its options, or the name of its form."""
    origin = get_origin(annotation)
    if origin is Literal:
        return [f"`{option}`" for option in get_args(annotation)]
    if origin is Annotated:
        written = [m.as_ for m in annotation.__metadata__ if isinstance(m, Written)]
        return written or _words(annotation.__origin__)
    if origin in (list, Union, UnionType):
        return [word for argument in get_args(annotation) for word in _words(argument)]
    if origin is dict:
        return ["section"]
    return {int: ["number"], bool: ["true or false"], str: ["text"]}.get(annotation, [])


def _default(info: FieldInfo) -> str:
    value: Any = info.default
    if info.is_required():
        return "must be given"
    if value is None or value in ([], {}, ""):
        return ""
    if isinstance(value, bool):
        return f"`{value}`".lower()
    if isinstance(value, list):
        return ", ".join(f"`{item}`" for item in value)
    if _type(info) == "duration":
        return f"`{value:g}s`"
    if _type(info) == "size" and value % 1024 == 0:
        return f"`{value // 1024}KiB`"
    return f"`{value}`"


def _flat(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    Path("docs/configuration.md").write_text(document())

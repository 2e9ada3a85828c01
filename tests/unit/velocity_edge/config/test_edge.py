"""An edge configuration is merged into `content`: every value keeps its place, relative paths are of its own folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from velocity_edge.config.load import Loaded, load_with_origins
from velocity_edge.errors import ConfigError

MAIN = """\
content:
  middlewares: [{name: own, kind: headers}]
  routes:
    - {match: {path: /own}, action: {type: static}}
"""
EDGE = """\
templates_dir: templates
middlewares:
   - name: edge
      kind: headers
routes:
   - match:
         path: /healthz
         methods: [GET]
      action:
         type: static
         body: "ok"
      middlewares: [own, edge]
"""


PAGE = Path(__file__).parents[4] / "docs/edge.md"


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL))
def test_the_examples_of_the_page_are_accepted(tmp_path: Path, example: str) -> None:
    file = tmp_path / "edge.yaml"
    file.write_text(f"templates_dir: templates\n{example}")
    load_with_origins(None, edge=file, environment={})


def test_the_two_files_of_the_guide_are_accepted_together() -> None:
    here = Path(__file__).parent
    content = load_with_origins(here / "serve.simple.yaml", edge=here / "edge.yaml", environment={}).config.content
    assert [site.hostname for site in content.sites] == ["example.com"]
    assert [proxy.hostname for proxy in content.proxies] == ["api.example.com"]
    assert [(route.match.path, route.action.type) for route in content.routes] == [
        ("/healthz", "static"),
        ("/api", "proxy"),
    ]
    assert [(one.name, one.kind) for one in content.middlewares] == [("auth", "oidc")]
    assert content.rate_limit is not None
    assert (content.rate_limit.limit, content.rate_limit.window_s) == (120, 60.0)
    assert content.unused() == ["auth"]


def loaded(folder: Path, edge: str, main: str | None = MAIN) -> Loaded:
    (folder / "edge").mkdir(exist_ok=True)
    file = folder / "edge" / "edge.yaml"
    file.write_text(edge)
    if main is not None:
        (folder / "main.yaml").write_text(main)
    return load_with_origins(folder / "main.yaml" if main is not None else None, edge=file, environment={})


def test_lists_follow_those_of_the_configuration(tmp_path: Path) -> None:
    both = loaded(tmp_path, EDGE)
    content = both.config.content
    assert [route.match.path for route in content.routes] == ["/own", "/healthz"]
    assert [one.name for one in content.middlewares] == ["own", "edge"]
    assert content.templates_dir == tmp_path / "edge" / "templates"
    assert both.origins["content", "routes", "1", "match", "path"] == f"{tmp_path}/edge/edge.yaml:7:10"
    assert both.origins["content", "routes", "0", "match", "path"] == f"{tmp_path}/main.yaml:4:16"
    assert both.origins["content", "middlewares", "1", "name"] == f"{tmp_path}/edge/edge.yaml:3:7"


def test_it_can_be_alone(tmp_path: Path) -> None:
    alone = loaded(tmp_path, EDGE.replace("[own, edge]", "[edge]"), None)
    assert [route.match.path for route in alone.config.content.routes] == ["/healthz"]


@pytest.mark.parametrize(
    ("edge", "main", "said"),
    [
        ("server: {}\n", MAIN, "edge.yaml:1:1: server: cannot understand this key; known in an edge configuration: "),
        (
            "templates_dir: x\n",
            "content: {templates_dir: y}\n",
            "1:1: templates_dir: cannot be given twice: ",
        ),
        ("routes:\n  - {match: {path: x}}\n", MAIN, "routes[0].match.path: cannot use 'x'"),
        ("routes:\n  - {match: {path: /}}\n", MAIN, "edge.yaml:2:5: routes[0].action: cannot be left out"),
        ("routes: 5\n", MAIN, "edge.yaml:1:1: routes: cannot use 5: must be a list"),
        (
            "routes:\n  - {match: {path: /own}, action: {type: static}}\n",
            MAIN,
            "edge.yaml:2:6: content.routes[1].match: cannot answer every method /own twice: content.routes[0] has it",
        ),
        (
            "routes:\n  - {match: {path: /a}, action: {type: static}, middlewares: [none]}\n",
            MAIN,
            "edge.yaml:2:63: content.routes[1].middlewares[0]: cannot use 'none': content.middlewares defines own",
        ),
        ("routes: []\n", "content: 5\n", "main.yaml:1:1: content: cannot use 5: must be a section with keys"),
    ],
)
def test_errors_name_the_file_and_the_place(tmp_path: Path, edge: str, main: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, edge, main)
    assert said in str(caught.value), caught.value


FLAT = """\
routes:
  - {path: "/hello/{name}", kind: text, body: hi, headers: {x-a: "1"}}
  - {path: /made, methods: [POST], kind: text, status: 201, body: made}
"""


def test_the_flat_routes_of_the_first_implementation_become_match_and_action(tmp_path: Path) -> None:
    flat = loaded(tmp_path, FLAT, None)
    hello, made = flat.config.content.routes
    assert (hello.match.path, hello.match.exact, hello.match.methods) == ("/hello/{name}", True, ["GET"])
    assert (made.match.methods, made.match.exact) == (["POST"], True)
    assert hello.action.model_dump(exclude_unset=True) == {"type": "text", "body": "hi", "headers": {"x-a": "1"}}
    origin = flat.origins["content", "routes", "1", "action", "status"]
    assert origin == f"{tmp_path}/edge/edge.yaml:3:48"


def test_an_error_in_a_flat_route_has_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, FLAT.replace("201", "99"), None)
    assert "edge.yaml:3:48: routes[1].action.status: cannot use 99: must be 200 or more" in str(caught.value)

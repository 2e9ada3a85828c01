"""The built-in rules of the web application firewall: data. Each is for attacks on servers of any kind, and is tested
to fire on examples and not to fire on ordinary requests (tests/unit/workers/middleware/test_waf_core.py).

They are a net for scanners and for known holes, no substitute for a program that checks its input: who knows the rules
can avoid them. Patterns are written for text that was decoded as `decode` says.
"""

from __future__ import annotations

from typing import Final, Literal

from velocity_edge.config.middlewares.waf_rule import WafMatch, WafRule

_Field = Literal["path", "query", "headers", "body", "any"]
#: Between words of SQL: space, or a comment in its place.
_GAP: Final = r"(?:\s|/\*[^*]*\*/|\()+"
_QUOTE: Final = "['\"`]"
_SHELL: Final = (
    r"(?:/?(?:usr/)?(?:s?bin/)?)(?:bash|sh|zsh|dash|nc|ncat|curl|wget|python3?|perl|ruby|php|powershell|cmd\.exe)"
)


def _rules(name: str, fields: str, pattern: str, *, html: bool = False) -> list[WafRule]:
    decode: list[Literal["url", "html", "lowercase"]] = ["url", "html", "lowercase"] if html else ["url", "lowercase"]
    # ASCII classes, and no counted repetition of many: the engine's automaton stays small, whatever the text.
    ascii_only = pattern.replace(r"\b", r"(?-u:\b)").replace(r"\s", r"[\t\n\x0b\f\r ]").replace(r"\w", "[0-9a-z_]")
    ascii_only = ascii_only.replace(r"\d", "[0-9]").replace(r"\S", r"[^\t\n\x0b\f\r ]")
    return [WafRule(id=name, match=WafMatch(field=f, pattern=ascii_only, decode=decode)) for f in fields.split()]


#: Several entries may share an id: one rule for several parts of a request.
CORE: Final = (
    # ../ in any spelling, also with backslashes and overlong UTF-8 (CVE-2000-0884): \xC0 is \xE0 in lower case.
    *_rules("traversal", "path query", "(?:^|[/\\\\=&])(?:\\.|\xe0(?:\x80)?\xae){2}(?:[/\\\\;]|\xe0(?:\x80)?\xaf|$)"),
    *_rules(
        "system-files",
        "path query body",
        r"(?:/|\\|=)(?:etc/(?:passwd|shadow|group)|proc/self/(?:environ|cmdline|maps)|windows[/\\]win\.ini|boot\.ini)(?:$|[^a-z0-9_-])",
    ),
    *_rules(
        "hidden-files",
        "path",
        r"/(?:\.git|\.svn|\.hg)/|/\.(?:env|htaccess|htpasswd|aws/credentials|ssh/id_[a-z0-9]+)$|/wp-config\.php",
    ),
    *_rules("null-byte", "path query body", r"\x00"),
    *_rules(
        "response-splitting",
        "path query",
        r"[\r\n]\s*(?:set-cookie|location|content-type|content-length|transfer-encoding)\s*:|[\r\n]\s*http/[0-9]",
    ),
    *_rules(
        "sql-injection",
        "query body",
        "|".join(
            (
                rf"\bunion{_GAP}(?:all{_GAP}|distinct{_GAP})?select\b",
                rf"{_QUOTE}\s*\)*{_GAP}(?:or|and){_GAP}(?:not{_GAP})?(?:\d+\s*[=<>]\s*\d+|{_QUOTE}[^'\"`]*{_QUOTE}\s*(?:=|like|[<>]))",
                rf"\b(?:or|and){_GAP}(\d+)\s*=\s*\d+\s*(?:--|#|/\*|$|&)",
                rf"{_QUOTE}\s*(?:or|and)\s*{_QUOTE}?\s*[0-9a-z]+{_QUOTE}?\s*=\s*{_QUOTE}?\s*[0-9a-z]+",
                rf"[;'\"](?:{_GAP})?(?:drop|alter|truncate|create){_GAP}(?:table|database|user|schema)\b",
                rf"[;'\"](?:{_GAP})?(?:delete{_GAP}from|insert{_GAP}into|update\s+\w+\s+set)\b",
                r"\b(?:pg_sleep|benchmark|extractvalue|updatexml|load_file|xp_cmdshell|utl_http\.request)\s*\(",
                r"(?:\bselect\b.*|['\")]\s*(?:or|and|;)\s*)\bsleep\s*\(\s*\d",
                r"\bwaitfor\s+delay\s+['\"]",
                r"\binformation_schema\s*\.",
                r"\bselect\b.*\bfrom\b.*(?:--|#|/\*|\bwhere\b\s*\d+\s*=)",
                rf"{_QUOTE}\s*(?:--|#)\s*(?:$|&)",
                r"\binto\s+(?:out|dump)file\b",
            )
        ),
    ),
    *_rules(
        "cross-site-scripting",
        "path query body",
        "|".join(
            (
                r"<\s*/?\s*script\b",
                r"<\s*(?:iframe|object|embed|applet|meta|base|form)\b[^>]*(?:src|data|http-equiv|href|action)\s*=",
                r"<[a-z!/][^>]*[\s/\x22']on[a-z]+\s*=",
                r"\x22\s+on[a-z]+\s*=\s*\x22?[a-z]+\(",
                r"(?:^|[=\s'\x22>])(?:javascript|vbscript)\s*:\s*[^\s]*[(`=%]",
                r"data\s*:\s*text/html",
                r"\bdocument\s*\.\s*(?:cookie|domain|write)\b",
            )
        ),
        html=True,
    ),
    # CVE-2014-6271
    *_rules("shellshock", "headers query", r"(?m)(?:^|=)\s*\(\)\s*\{[^}\n]*[;:}]"),
    # CVE-2021-44228, and its disguises with nested look-ups.
    *_rules(
        "log4shell",
        "any",
        r"\$\{\s*(?:jndi\s*:|\$\{|[^}]*\$\{[^}]*:-?[a-z:]|(?:env|sys|java|ctx|lower|upper|date|main)\s*:[^}]*\$?\{)",
    ),
    *_rules(
        "shell-injection",
        "query body",
        rf"(?:;|\||&&|`|\$\(|\n)\s*{_SHELL}\s+[-/<>\w\"'$.]|(?:;|\||&&|`|\$\()\s*(?:cat\s+/|ls\s+-|rm\s+-[rf]|id(?:\s|;|`|\)|$)|whoami\b|uname\s+-)|\$\{{ifs\}}",
    ),
    *_rules(
        "php-injection",
        "query body",
        r"<\?php\b|\bphp://(?:input|filter|fd)|\b(?:expect|phar|zip)://|\b(?:allow_url_include|auto_prepend_file)\b|\b(?:eval|system|shell_exec|passthru|assert)\s*\(\s*(?:['\"$]|base64_decode)",
    ),
    *_rules(
        "template-injection",
        "path query body",
        r"__(?:class|globals|builtins|subclasses|mro|import)__|\{\{.*(?:\d\s*\*\s*\d|config|self\.|request\.|lipsum).*\}\}|#\{\s*\d+\s*\*\s*\d+\s*\}",
    ),
    # CVE-2022-22965, and serialized Java objects.
    *_rules(
        "java-injection",
        "query body",
        r"\bclass\.module\.classloader\b|\bro0abx|\bruntime\.getruntime\(\)|\bjava\.lang\.(?:processbuilder|runtime)\b|%\{\s*\(?#",
    ),
    *_rules("xml-entities", "body", r"<!(?:entity|doctype)\s[^>]*\b(?:system|public)\s+['\"]"),
    *_rules(
        "scanner",
        "headers",
        r"\b(?:sqlmap/|nikto/|nessus|acunetix|masscan/|dirbuster|gobuster/|wpscan|nuclei|feroxbuster|zgrab/)",
    ),
)

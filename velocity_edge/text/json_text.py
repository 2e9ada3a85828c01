"""JSON that is safe to print: ASCII only, with the escapes of JSON itself, which every reader decodes exactly.

Short because it is one function.
"""

from __future__ import annotations

import json
from typing import Any, Final

import orjson

#: ASCII, and not escaped by JSON.
_DEL: Final = b"\x7f"


def json_text(value: Any, *, indent: bool = False) -> bytes:
    """Return *value* as JSON in printable ASCII, on one line (*indent*: on several); other types as `str`."""
    try:
        option = orjson.OPT_NON_STR_KEYS | (orjson.OPT_INDENT_2 if indent else 0)
        data = orjson.dumps(value, default=str, option=option)
        if data.isascii() and _DEL not in data:
            return data
    except orjson.JSONEncodeError:
        pass  # a lone surrogate (a file name that is not UTF-8), an integer of more than 64 bits
    text = json.dumps(value, default=str, indent=2 if indent else None, separators=None if indent else (",", ":"))
    return text.encode().replace(_DEL, b"\\u007f")

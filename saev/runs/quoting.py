"""Quoted strings of Hydra's override grammar."""

import re


def quote(text: str) -> str:
    r"""The text in double quotes: quotes are escaped, and backslashes before a quote or at the end.

    >>> print(quote('a"b'), quote("c\\d"), quote("e\\"))
    "a\"b" "c\d" "e\\"
    """
    return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ("\\" + m[2] if m[2] else ""), text) + '"'

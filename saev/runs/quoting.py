"""Strings as Hydra's override grammar takes them, whatever they hold."""

import re


def quote(text: str) -> str:
    r"""The text in double quotes: a quote is escaped, and so are the backslashes before it or at the end; others stand for themselves.

    >>> print(quote('a"b'), quote("c\\d"), quote("e\\"))
    "a\"b" "c\d" "e\\"
    """
    return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ("\\" + m[2] if m[2] else ""), text) + '"'

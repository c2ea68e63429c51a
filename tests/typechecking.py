"""How the tests check types: beartype as PEP 484 and pyright read them, where an int will do for a float."""

import functools
from collections.abc import Callable

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable) -> Callable:
    """The function with its types checked from its first call: most functions are never called in a process of the tests.

    Settings (saev/<package>/settings.py) check theirs with messages for users.
    """
    if function.__module__.endswith(".settings"):
        return function
    check_types = None

    @functools.wraps(function)
    def checking(*args, **kwargs):
        nonlocal check_types
        if check_types is None:
            check_types = checked(function)
        return check_types(*args, **kwargs)

    return checking

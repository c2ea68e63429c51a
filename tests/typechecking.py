"""How the tests check types: beartype as PEP 484 and pyright read them, where an int will do for a float."""

import functools
import sys
from collections.abc import Callable

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
LIMIT = 25  # checks of a function in one test: a loop repeats its shapes, and checking them took a third of the suite's time
_test = 0
_unchecked: set[Callable] = set()


def start_test() -> None:
    """Check every function again."""
    global _test
    _test += 1
    for function in _unchecked:
        del function.__no_type_check__
    _unchecked.clear()


def check(function: Callable) -> Callable:
    """The function with its types checked from its first call: most functions are never called in a process of the tests.

    Settings (saev/<package>/settings.py) check theirs with messages for users.
    """
    if function.__module__.endswith(".settings"):
        return function
    check_types, calls, test = None, 0, 0

    @functools.wraps(function)
    def checking(*args, **kwargs):
        nonlocal check_types, calls, test
        if check_types is None:
            check_types = checked(function)
        calls, test = (calls + 1 if test == _test else 1), _test
        if calls == LIMIT:  # jaxtyping reads this attribute of the source's function at each call
            source = sys._getframe(1).f_locals["fn"]
            source.__no_type_check__ = True
            _unchecked.add(source)
        return check_types(*args, **kwargs)

    return checking

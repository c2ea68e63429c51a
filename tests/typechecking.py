"""How the tests check types: beartype as PEP 484 and pyright read them, where an int will do for a float."""

from collections.abc import Callable

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable) -> Callable:
    """The function with its types checked; settings (saev/<package>/settings.py) check theirs with messages for users."""
    return function if function.__module__.endswith(".settings") else checked(function)

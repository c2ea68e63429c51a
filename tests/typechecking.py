"""How the tests check types: beartype as PEP 484 and pyright read them, where an int will do for a float."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))

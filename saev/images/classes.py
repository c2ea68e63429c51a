"""Files that name the class ids of masks."""

import json
import re
from pathlib import Path

from saev.images.tables import read_table


def read_classes(file: Path) -> dict[int, str]:
    """Names by class id from .json ({"0": "sky"}), .csv/.tsv (id, name, ...) or text (a line `0 sky` per class).

    ADE20K's objectInfo150.txt is such a text: numbers between id and name are skipped. ValueError naming the file and
    the text that is not an id.
    """
    if not file.is_file():
        raise ValueError(f"images.classes={file} does not exist: give a file that names the class ids, or null.")
    if file.suffix.lower() == ".json":
        try:
            pairs = [*json.loads(file.read_text(encoding="utf-8-sig")).items()]
        except (ValueError, AttributeError) as error:
            raise ValueError(f'images.classes={file} is not JSON such as {{"1": "wall"}}: {error}.') from error
    elif file.suffix.lower() in (".csv", ".tsv"):
        pairs = [(id, next(iter(row.values()), "")) for id, row in read_table(file).items()]
    else:
        pairs = [_line(line) for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        pairs = pairs[1:] if pairs and pairs[0][0] == "Idx" else pairs  # objectInfo150.txt has a header
    wrong = [id for id, _ in pairs if not re.fullmatch(r"-?\d+", str(id).strip())]
    if wrong or not pairs:
        why = f"{wrong[0]!r} is not a class id" if wrong else "it is empty"
        raise ValueError(f"images.classes={file}: {why}; write an id and a name for each class, such as `1 wall`.")
    return {int(id): str(name).strip() for id, name in pairs}


def _line(line: str) -> tuple[str, str]:
    """(id, name) of a line; leaves out counts and ratios between them.

    >>> _line("4 sky, heavens"), _line("1\\t0.1576\\t11664\\t1172\\twall"), _line("7: 2 doors")
    (('4', 'sky, heavens'), ('1', 'wall'), ('7', '2 doors'))
    """
    id, *rest = re.split(r"\t+" if "\t" in line else r"[\s:,]+", line.strip(), maxsplit=0 if "\t" in line else 1)
    return id, rest[-1] if rest else ""

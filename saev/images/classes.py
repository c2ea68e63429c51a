"""Files that name the class ids of masks."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from saev.images.tables import read_table, read_text


def read_classes(file: Path) -> dict[int, str]:
    """Names by class id from .json or .yaml ({"0": "sky"}, or YOLO's and COCO's), .csv/.tsv (id, name, ...) or text (lines `0 sky`).

    ADE20K's objectInfo150.txt is such a text: numbers between id and name are skipped. ValueError naming the file and
    the text that is not an id.
    """
    if not file.is_file():
        raise ValueError(f"images.classes={file} does not exist: give a file that names the class ids, or null.")
    kind = file.suffix.lower()
    if kind in (".json", ".yaml", ".yml"):
        try:
            pairs = _pairs(_parsed(file))
        except (ValueError, AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
            raise ValueError(
                f'images.classes={file} is not {kind[1:].upper()} such as {{"1": "wall"}} ({error}).'
            ) from error
    elif kind in (".csv", ".tsv"):
        pairs = [(id, next(iter(row.values()), "")) for id, row in read_table(file).items()]
    elif kind not in ("", ".txt", ".names", ".lst"):
        raise ValueError(
            f"images.classes={file}: files of kind {kind} are not read; give .json, .yaml, .csv, .tsv or .txt, with a line "
            "`1 wall` for each class."
        )
    else:
        pairs = [_line(line) for line in read_text(file).splitlines() if line.strip()]
        pairs = pairs[1:] if pairs and pairs[0][0] == "Idx" else pairs  # objectInfo150.txt has a header
    wrong = [id for id, _ in pairs if not _is_id(id)]
    if wrong or not pairs:
        why = f"{wrong[0]!r} is not a class id" if wrong else "it is empty"
        raise ValueError(f"images.classes={file}: {why}; write an id and a name for each class, such as `1 wall`.")
    return {int(id): str(name).strip() for id, name in pairs}


def _parsed(file: Path) -> Any:
    """The contents of a JSON or YAML file, where keys and names are text: YAML would make `no` False."""
    text = read_text(file)
    return json.loads(text) if file.suffix.lower() == ".json" else yaml.load(text, yaml.BaseLoader)


def _pairs(parsed: Any) -> list[tuple[Any, Any]]:
    """(id, name) of each class in a mapping or a list of {id, name}; also below `names` (of YOLO, names from 0) or `categories`.

    >>> _pairs({"names": ["sky", "wall"]}), _pairs({"categories": [{"id": 3, "name": "sky"}]}), _pairs({"sky": 3})
    ([(0, 'sky'), (1, 'wall')], [(3, 'sky')], [(3, 'sky')])
    """
    names = parsed.get("names") if isinstance(parsed, dict) else None
    if isinstance(names, list):
        return [*enumerate(names)]
    if isinstance(parsed, dict):
        parsed = next(
            (parsed[key] for key in ("names", "categories") if not isinstance(parsed.get(key, ""), str)), parsed
        )
    if isinstance(parsed, list):
        return [(each["id"], each["name"]) for each in parsed]
    pairs = [*parsed.items()]
    inverted = not any(_is_id(key) for key, _ in pairs) and all(_is_id(value) for _, value in pairs)
    return [(value, key) for key, value in pairs] if inverted else pairs


def _is_id(value: Any) -> bool:
    return bool(re.fullmatch(r"-?\d+", str(value).strip()))


def _line(line: str) -> tuple[str, str]:
    """(id, name) of a line; leaves out counts and ratios between them.

    >>> _line("4 sky, heavens"), _line("1\\t0.1576\\t11664\\t1172\\twall"), _line("7: 2 doors")
    (('4', 'sky, heavens'), ('1', 'wall'), ('7', '2 doors'))
    """
    id, *rest = re.split(r"\t+" if "\t" in line else r"[\s:,]+", line.strip(), maxsplit=0 if "\t" in line else 1)
    return id, rest[-1] if rest else ""

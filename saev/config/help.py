"""The help of a verb, from its YAML file: groups with their choices, keys with their comments, examples (`# $ saev ...`)."""

import re
import textwrap
from collections.abc import Iterator

from saev.config.command_line import CONF

WIDTH = 120
HIDDEN = ("hydra", "paths", "local")  # groups that are not about the verb's work
KEY = re.compile(r"^( *)(\w+):(?: ([^#]*?))?\s*(?:# (.*))?$")
GROUP = re.compile(r"^  - (\w+): (\w+)(?: # (.*))?$")
FLAGS = {
    "-m": "sweep: each key may have several values, key=a,b",
    "--cfg job": "print the configuration and exit",
    "--info defaults": "print which file each part of the configuration comes from",
    "--explain": "with tables, say what each column means",
}


def help_text(verb: str, summary: str) -> str:
    """What `saev <verb> --help` prints."""
    text = (CONF / f"{verb}.yaml").read_text()
    lines = text.splitlines()
    examples = [line.removeprefix("# $ ") for line in lines if line.startswith("# $ ")]
    keys = [*rows(lines)]
    groups = [(f"{g}={value}", choices(g, about or "")) for g, value, about in filter(None, map(group_of, lines))]
    positional = " DIRECTORY ..." if any(name.startswith("dictionaries=") for name, _ in keys) else ""
    parts = [f"saev {verb}{positional} [key=value ...] [flags]", textwrap.fill(summary, WIDTH), ""]
    if groups:
        parts += ["Groups (group.key=value sets one key; --cfg job prints all):", *table(groups), ""]
    parts += ["Keys, with their defaults:", *table(keys), "", "Flags:", *table([*FLAGS.items()])]
    return "\n".join([*parts, "", "Examples:", *(f"  {example}" for example in examples)])


def group_of(line: str) -> tuple[str, str, str] | None:
    """(group, default, comment) of a line of a defaults list."""
    match = GROUP.match(line)
    return None if match is None or match[1] in HIDDEN else match.groups()  # type: ignore[return-value]


def choices(group: str, about: str) -> str:
    """The comment, with the files of conf/<group> where there are several."""
    names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    return "; ".join(filter(None, (about, " | ".join(names)))) if len(names) > 1 and "|" not in about else about


def rows(lines: list[str]) -> Iterator[tuple[str, str]]:
    """(key=default, comment) of each key, and (title, "") of each section `# --- title`."""
    prefix: list[str] = []
    for line in lines[lines.index("defaults:") + 1 :]:
        if line.startswith("# --- "):
            yield line.removeprefix("# --- "), ""
        if (match := KEY.match(line)) is None:
            continue
        indent, key, value, about = match.groups()
        prefix[len(indent) // 2 :] = [key]
        if value and key != "member":  # set by the program
            yield f"{'.'.join(prefix)}={value}", about or ""


def table(entries: list[tuple[str, str]]) -> list[str]:
    """The entries in two columns; an entry without a second column is a heading."""
    width = min(34, max(len(name) for name, about in entries if about))
    printed = []
    for name, about in entries:
        if not about:
            printed.append(f"  {name}" if "=" in name and " " not in name else f"  [{name}]")
            continue
        first = [] if len(name) <= width else [f"  {name}"]
        lead = " " * (width + 4) if first else f"  {name:<{width}}  "
        printed += first + textwrap.wrap(about, WIDTH, initial_indent=lead, subsequent_indent=" " * (width + 4))
    return printed

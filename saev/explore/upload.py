"""A photo that was not recorded: its patches' latents, from the backbone itself."""

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import UnidentifiedImageError

from saev.device import resolve_device
from saev.explore.cards import image_data
from saev.explore.errors import squared_errors
from saev.explore.image import NONE, PatchLatents
from saev.explore.opened import Opened
from saev.images.opening import open_rgb
from saev.shards.reader import ROLES
from saev.visuals.pictures import model_view, uri_of
from saev.vits.activation_site import site_of
from saev.vits.backbone import Backbone
from saev.vits.source import VitSource

TOP = 16


@dataclasses.dataclass(eq=False)
class Reader:
    """A backbone that is loaded when the first photo comes."""

    vit: VitSource
    device: str = "auto"

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone with its weights."""
        return self.vit.load(resolve_device(self.device))

    @torch.inference_mode()
    def card(self, opened: Opened, photo: bytes, name: str) -> dict[str, Any]:
        """The card of `image_card` for the bytes of an image file.

        ValueError for bytes that are no image, and for a dictionary of another backbone or without patch tokens.
        """
        identity = self.vit.identity()
        site = site_of(opened.one.name, opened.one.config, identity, self.vit.shape())
        if "patches" not in ROLES[site.tokens]:
            raise ValueError(
                f"{opened.one.name} was trained on tokens={site.tokens}: choose one of patch tokens to see a photo's patches."
            )
        try:
            picture = open_rgb(photo, name)
        except (OSError, UnidentifiedImageError) as error:
            raise ValueError(
                f"{name} is no image that can be read ({error}): choose a JPEG, PNG, WebP or TIFF file."
            ) from error
        backbone = self.backbone
        pixels = backbone.transform(picture)[None].to(next(backbone.parameters()).device)
        acts = backbone(pixels, [site.layer], site.hook)[site.layer][0].float().cpu()
        grid = backbone.shape.grid_of(*picture.size)
        patches = acts[backbone.shape.slices(len(acts))["patches"]]
        codes = opened.dictionary.encode(patches).float()
        values, latents = codes.topk(min(TOP, codes.shape[1]), dim=1)
        values, latents = values.numpy(), np.where(values.numpy() > 0, latents.numpy(), NONE).astype(np.int32)
        peak = codes.amax(0)
        whole = peak.topk(min(TOP, len(peak))).indices
        whole = whole[peak[whole] > 0]
        errors = squared_errors(patches, opened.dictionary.decode(codes), opened.mean_error).reshape(grid)
        source = uri_of(model_view(picture, identity, opened.large.side), opened.large.quality)
        photo_card = {"example": -1, "path": name, "src": source, "grid": list(grid), "label": name}
        best = PatchLatents(grid, latents, np.where(latents == NONE, 0, values).astype(np.float32))
        return image_data(opened, photo_card, best, (whole.numpy(), peak[whole].numpy()), errors)

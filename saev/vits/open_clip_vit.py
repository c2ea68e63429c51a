"""Visual towers of open_clip that are vision transformers: CLIP, SigLIP, BioCLIP 2, EVA-CLIP."""

import difflib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from saev.vits import anatomy, checkpoint, hub
from saev.vits.anatomy import Anatomy
from saev.vits.backbone import Backbone
from saev.vits.random_weights import with_random_weights
from saev.vits.sizing import Transform, one_size
from saev.vits.source import ModelSource

HUB = "hf-hub:"
FILES = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]


@dataclass(kw_only=True)
class OpenClipVit(ModelSource):
    """The visual tower of an open_clip model, e.g. ViT-B-16; the text tower is dropped after loading."""

    library = "open_clip"
    pretrained: str | None = None
    """A tag of open_clip's list, or `hf-hub:owner/model` (whose architecture must be `arch`)."""
    resize: str | None = None
    """None for the training's resize (squash for SigLIP)."""

    def _check_hub(self) -> None:
        tag = self.pretrained or ""
        where = tag.removeprefix(HUB) + "/" if tag.startswith(HUB) else self._tag.get("hf_hub")
        if where:
            repo, file = os.path.split(where)
            hub.check_hub(repo, [file] if file else FILES, self.name)
        elif url := self._tag.get("url"):
            hub.check_url(url, self.name)
        else:
            import open_clip

            known = open_clip.list_pretrained_tags_by_model(str(self.arch))
            raise ValueError(
                f"vit.pretrained={self.pretrained}: choose weights of {self.arch} ({', '.join(known)}), or give a local file, "
                "vit.checkpoint=/path.safetensors."
            )

    @cached_property
    def _tag(self) -> dict[str, Any]:
        """open_clip's entry for these weights: their address and the preprocessing of their training."""
        import open_clip

        # for a local file with a tag, the tag's preprocessing is used
        return open_clip.get_pretrained_cfg(str(self.arch), self.pretrained or "") or {}

    def _build(self, weights: str | None = None, device: str = "meta") -> Any:
        import open_clip

        if not self.arch:
            raise ValueError("vit.arch is not set: name a model of open_clip, e.g. vit.arch=ViT-B-16.")
        if self.arch not in open_clip.list_models():
            near = difflib.get_close_matches(str(self.arch), open_clip.list_models(), 3)
            raise ValueError(f"vit.arch={self.arch} is not a model of open_clip: did you mean {', '.join(near)}?")
        name, tag = (weights, None) if weights and weights.startswith(HUB) else (self.arch, weights)
        size: Any = list(self.img_size) if isinstance(self.img_size, Sequence) else self.img_size
        with quiet():
            model = open_clip.create_model(
                name, tag, load_weights=weights is not None, pretrained_text=False, force_image_size=size,
                device="cpu" if weights else device, weights_only=True,
            )  # fmt: skip
        return model.visual

    def _parts(self, model: Any) -> tuple[Anatomy, Transform]:
        if self.sizing.flex:
            raise ValueError(one_size(f"vit.arch={self.arch} of open_clip"))
        parts = anatomy.of_open_clip(model, str(self.arch))
        cfg = {**self._skeleton.preprocess_cfg, **self._tag}
        trained = "squash" if cfg.get("resize_mode") == "squash" else "crop"
        sizing = replace(self.sizing, resize=self.resize or trained)
        return parts, sizing.transform(parts.shape, cfg["mean"], cfg["std"], cfg.get("interpolation", "bicubic"))

    def _randomised(self) -> Any:
        return with_random_weights(lambda: self._build(device="cpu"), self.seed)

    @property
    def _published(self) -> str | None:
        return self.pretrained

    def load(self, device: str = "cpu") -> Backbone:
        if self.random_weights:
            self.check()
            visual = self._randomised()
        elif self.checkpoint:
            file = checkpoint.check_file(self.checkpoint)
            try:
                visual = self._build(str(file))
            except (RuntimeError, KeyError) as error:
                what = " ".join(str(error).split()[:40])
                raise ValueError(f"vit.checkpoint={file} does not fit vit.arch={self.arch}: {what}") from error
        else:
            self.check()
            visual = self._build(self.pretrained)
        return Backbone(self.name, visual, *self._parts(visual)).to(device)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress open_clip's warning that a model built only for its shape has no weights."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

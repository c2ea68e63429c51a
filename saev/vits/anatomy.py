"""Where the parts of a timm or open_clip vision transformer are: blocks, final norm, tokens, grid."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

# Blocks -> modules whose outputs are ADDED to the residual stream by attention and by the MLP, layer scale included:
# timm's blocks all pass through drop_path1/2 (identities in eval mode), open_clip's through ls_1/2.
TIMM_WRITERS = ("drop_path1", "drop_path2")
OPEN_CLIP_WRITERS = ("ls_1", "ls_2")


@dataclass(frozen=True)
class VitShape:
    """Sizes of a vision transformer: all that is known of it without its weights."""

    d_model: int
    depth: int
    n_cls: int
    n_registers: int
    grid: tuple[int, int]
    image_size: tuple[int, int]

    @property
    def n_patches(self) -> int:
        """Patches per image."""
        return self.grid[0] * self.grid[1]

    @property
    def roles(self) -> dict[str, int]:
        """Tokens per image by role, in the order in which they are stored."""
        return {"cls": self.n_cls, "registers": self.n_registers, "patches": self.n_patches}


@dataclass(frozen=True)
class Anatomy:
    """A model's parts; `run` is the cheapest forward that passes through all its blocks."""

    shape: VitShape
    blocks: Sequence[nn.Module]
    norm: nn.Module | None
    writers: tuple[str, str]
    run: Callable[[Tensor], Any]


def of_timm(model: Any, arch: str) -> Anatomy:
    """Parts of a timm model; ValueError where it is no plain vision transformer."""
    blocks = getattr(model, "blocks", None)
    tokens = getattr(model, "num_prefix_tokens", None)
    embed: Any = getattr(model, "patch_embed", None)
    if not blocks or tokens is None or getattr(embed, "grid_size", None) is None:
        raise ValueError(
            f"vit.arch={arch} ({type(model).__name__}) is not a plain vision transformer with one width and one grid: "
            "choose a ViT, e.g. vit.arch=vit_small_patch14_dinov2.lvd142m."
        )
    parts = [getattr(model, part, None) for part in ("cls_token", "dist_token")]
    n_cls = min(sum(part is not None for part in parts), tokens)
    image = tuple(embed.img_size)
    grid = patch_grid(image, embed.patch_size[0])
    return Anatomy(
        shape=VitShape(model.embed_dim, len(blocks), n_cls, tokens - n_cls, grid, image),
        blocks=list(blocks),
        norm=real_norm(getattr(model, "norm", None)),
        writers=TIMM_WRITERS,
        run=model.forward_features,
    )


def of_open_clip(visual: Any, arch: str) -> Anatomy:
    """Parts of an open_clip visual tower, its own transformer or one of timm's; ValueError for other towers."""
    if hasattr(visual, "trunk"):
        return of_timm(visual.trunk, arch)
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if not blocks:
        raise ValueError(f"vit.arch={arch} ({type(visual).__name__}) has no transformer: choose one like ViT-B-16.")
    image = tuple(visual.image_size)
    shape = VitShape(visual.class_embedding.shape[0], len(blocks), 1, 0, patch_grid(image, visual.patch_size[0]), image)
    # with an attention pooler ln_post normalises what comes out of the pooler, not the tokens
    norm = None if getattr(visual, "attn_pool", None) is not None else real_norm(visual.ln_post)
    return Anatomy(shape=shape, blocks=list(blocks), norm=norm, writers=OPEN_CLIP_WRITERS, run=visual.forward)


def patch_grid(image_size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Patches per (height, width) of an image; ValueError where they do not cover it, the edge would go unseen.

    >>> patch_grid((112, 224), 14)
    (8, 16)
    """
    for pixels in image_size:
        if pixels <= 0 or pixels % patch:
            fits = max(pixels // patch, 1) * patch
            raise ValueError(
                f"vit.img_size={pixels} is not a multiple of the patch size {patch}: "
                f"use vit.img_size={fits} or {fits + patch}."
            )
    return image_size[0] // patch, image_size[1] // patch


def real_norm(norm: nn.Module | None) -> nn.Module | None:
    """The norm, or None where the model only has a placeholder (it pools first and normalises then)."""
    return None if norm is None or isinstance(norm, nn.Identity) else norm

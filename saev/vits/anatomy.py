"""The parts of a timm or open_clip vision transformer: blocks, final norm, tokens, grid."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from saev.settings import listed
from saev.vits.hooks import HOOKS, Point, tap
from saev.vits.shape import VitShape, patch_grid

# Modules of a block whose outputs are ADDED to the residual stream by attention and by the MLP, layer scale included:
# drop_path1/2 in timm (identities in eval mode), ls_1/2 in open_clip.
TIMM_WRITERS = ("drop_path1", "drop_path2")
OPEN_CLIP_WRITERS = ("ls_1", "ls_2")


@dataclass(frozen=True)
class Anatomy:
    """A transformer's parts; `run` is the cheapest forward pass through all blocks."""

    name: str
    shape: VitShape
    blocks: Sequence[nn.Module]
    norm: nn.Module | None
    writers: tuple[str, str]
    run: Callable[[Tensor], Any]

    def read(self, images: Tensor, layers: Sequence[int], hook: str) -> dict[int, Tensor]:
        """Activations of these layers at `hook`; ValueError for a hook that the model does not have."""
        norm = self.final_norm() if hook == "norm" else None
        acts = tap({layer: self.point(layer, hook) for layer in layers}, lambda: self.run(images))
        return {layer: norm(value) for layer, value in acts.items()} if norm else acts

    def point(self, layer: int, hook: str) -> Point:
        """The module output or input that a hook reads at block `layer`."""
        block = self.blocks[layer]
        if hook in ("resid_pre", "resid_post", "norm"):
            return Point(block, before=hook == "resid_pre")
        if hook not in HOOKS:
            raise ValueError(f"record.hook={hook}: choose {listed(HOOKS)}.")
        writer = getattr(block, self.writers[hook == "mlp"], None)
        if writer is None:
            raise ValueError(
                f"record.hook={hook}: the blocks of {self.name} ({type(block).__name__}) do not separate attention and MLP; "
                "use record.hook=resid_post."
            )
        return Point(writer)

    def final_norm(self) -> nn.Module:
        """The norm after the last block; ValueError if the model normalises only after pooling."""
        if self.norm is None:
            raise ValueError(f"record.hook=norm: {self.name} has no norm over its tokens; use record.hook=resid_post.")
        return self.norm


def of_timm(model: Any, arch: str) -> Anatomy:
    """Parts of a timm model; ValueError if it is not a plain vision transformer."""
    blocks = getattr(model, "blocks", None)
    tokens = getattr(model, "num_prefix_tokens", None)
    embed: Any = getattr(model, "patch_embed", None)
    if not blocks or tokens is None or getattr(embed, "grid_size", None) is None:
        raise ValueError(
            f"vit.arch={arch} ({type(model).__name__}) is not a plain vision transformer with one width and one grid: "
            f"choose a ViT, e.g. vit.arch=vit_small_patch14_dinov2.lvd142m, or record its stages, vit=timm_cnn vit.arch={arch}."
        )
    parts = [getattr(model, part, None) for part in ("cls_token", "dist_token")]
    n_cls = min(sum(part is not None for part in parts), tokens)
    image = tuple(embed.img_size)
    patch = embed.patch_size[0]
    return Anatomy(
        name=arch,
        shape=VitShape(model.embed_dim, len(blocks), n_cls, tokens - n_cls, patch_grid(image, patch), image, patch),
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
    image, patch = tuple(visual.image_size), visual.patch_size[0]
    shape = VitShape(visual.class_embedding.shape[0], len(blocks), 1, 0, patch_grid(image, patch), image, patch)
    # with an attention pooler ln_post normalises the pooled output, not the tokens
    norm = None if getattr(visual, "attn_pool", None) is not None else real_norm(visual.ln_post)
    return Anatomy(arch, shape, list(blocks), norm, OPEN_CLIP_WRITERS, visual.forward)


def real_norm(norm: nn.Module | None) -> nn.Module | None:
    """The norm, or None if it is a placeholder (the model pools before it normalises)."""
    return None if norm is None or isinstance(norm, nn.Identity) else norm

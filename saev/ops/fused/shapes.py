"""Which shapes the kernels take, and how their work is divided into programs and warps.

A sum over an axis that lies across warps costs a barrier for each tile, more than all else: gradients of 16 pairs and 256
columns took 342, 944 and 3045 us by 1, 2 and 4 warps (H200, d_model 1024, d_sae 16384, 16384 tokens of 32 codes). So kernels that
sum over pairs have at most a warp per 256 columns, and many programs instead of many warps.
"""

GROUP = 32  # neighbouring pre-activations of which selection keeps the maximum: 64 bytes
WIDEST = 8192  # d_model: a row of it, in float32, fits into the registers of one program


def launch(warps: int) -> dict[str, int | bool]:
    """Options of a kernel's launch; a multiplication and an addition are one instruction, rounded once."""
    return {"num_warps": warps, "enable_fp_fusion": True}


def padded(n: int) -> int:
    """The smallest power of two that is at least n: the length of a tile."""
    return 1 << max(0, n - 1).bit_length()


def row_warps(d_model: int) -> int:
    """Warps of a program that decodes one row: eight atoms at once in at most 128 registers."""
    width = padded(d_model)
    return 1 if width <= 256 else max(2, width // 512)


def atom_warps(d_model: int) -> int:
    """Warps of a program that steps one atom: it has no tile, so that more warps only mean more bytes in flight."""
    return min(8, max(1, padded(d_model) // 64))


def group_width(d_sae: int, k: int) -> int | None:
    """Columns of a group, a power of two up to GROUP such that there are at least 2 k groups; None: there is no such number."""
    width = GROUP
    while width > 1 and (d_sae % width or d_sae // width < 2 * k):
        width //= 2
    return width if d_sae // width >= k and d_sae // width <= 2**15 - 1 else None


def refusal(d_model: int, d_sae: int, k: int) -> str | None:
    """Why the fused step does not take this shape; None where it does."""
    if d_model % 16 or d_model > WIDEST:
        return f"d_model={d_model} is not a multiple of 16 up to {WIDEST}"
    if d_sae % 8:
        return f"d_sae={d_sae} is not a multiple of 8"  # the product's rows would not be aligned
    if group_width(d_sae, k) is None:
        return f"k={k} of d_sae={d_sae} is outside of what selection takes"
    return None

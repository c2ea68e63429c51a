"""From photos to their strongest latents, with a dictionary that `python train.py` (the demo) has trained.

    uv run python examples/encode.py outputs/train/<date>/<run>/saes/<member> photo.jpg ...

Only the library is used: no Lightning, no Hydra. For a dictionary on another backbone, load that backbone below.
"""

import argparse

import torch

import saev
from saev.demo import ImgFocus
from saev.images import open_rgb


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dictionary", help="directory of one trained SAE")
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--top", type=int, default=5, help="latents to print per photo")
    args = parser.parse_args()

    dictionary = saev.load(args.dictionary)
    layer = saev.read_config(args.dictionary)["provenance"]["layer"]
    backbone = ImgFocus().load()
    for photo in args.photos:
        image = backbone.transform(open_rgb(photo))
        acts = backbone(image[None], [layer])[layer][0, -backbone.n_patches :]  # [patches, d_model], raw
        codes = dictionary.encode(acts)
        values, latents = codes.amax(0).topk(args.top)
        nmse = (acts - dictionary.decode(codes)).square().sum() / (acts - acts.mean(0)).square().sum()
        print(f"{photo}: {float((codes > 0).sum(1).float().mean()):.1f} latents per patch, NMSE {float(nmse):.3f}")
        for value, latent in zip(values.tolist(), latents.tolist(), strict=True):
            patch = int(codes[:, latent].argmax())
            row, column = divmod(patch, backbone.grid[1])
            print(f"  latent {latent:5d}  {value:6.2f} at patch row {row}, column {column}")


if __name__ == "__main__":
    main()

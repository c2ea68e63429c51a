"""ADE20K of the scene parsing challenge: ADEChallengeData2016.zip, 20,210 + 2,000 images, 150 classes.

root/images/{training,validation}/*.jpg    root/annotations/{training,validation}/*.png
root/sceneCategories.txt                   root/objectInfo150.txt
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from saev.images.classes import read_classes
from saev.images.files import Listing, choose
from saev.images.masked import MaskedImages
from saev.images.segmentation import segmentation

LAYOUT = (
    "unpack ADEChallengeData2016.zip and give its folder, with images/, annotations/ and sceneCategories.txt, "
    "images.root=/data/ADEChallengeData2016."
)


@dataclass(kw_only=True)
class Ade20k(MaskedImages):
    """ADE20K scene parsing: columns `split` and `scene`; ids 1 to 150, and 0 for unlabelled pixels."""

    split: str = "all"
    background: Sequence[int] | int = (0,)
    name: str = "ade20k"

    @property
    def kind(self) -> str:
        return "ade20k"

    def listing(self) -> Listing:
        choose("split", self.split, ["all", "training", "validation"])
        listing = segmentation(self, self.split, {"sceneCategories.txt": "scene"}, LAYOUT)
        info = self.folder / "objectInfo150.txt"
        return replace(listing, classes={0: "unlabelled"} | read_classes(info)) if info.is_file() else listing

"""iNaturalist 2021: class folders whose names contain the taxonomy.

root/00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris/*.jpg
"""

from dataclasses import dataclass
from functools import cache

from saev.images.files import FileImages, Listing
from saev.images.folder import find_images
from saev.images.tables import Row

# `class` is the folder's name, as in every folder of classes; the rank of that name is called taxon_class
RANKS = ("kingdom", "phylum", "taxon_class", "order", "family", "genus", "species")


@dataclass(kw_only=True)
class INat21(FileImages):
    """The folder train, train_mini or val of iNat21: columns class, class_id and seven ranks of taxonomy."""

    name: str = "inat21"

    @property
    def kind(self) -> str:
        return "inat21"

    def listing(self) -> Listing:
        paths = find_images(self.folder, "*/*")
        for folder in sorted({path.partition("/")[0] for path in paths}):
            if len(folder.split("_")) != 8 or not folder.partition("_")[0].isdigit():
                raise ValueError(
                    f"images.root={self.root}: the folder {folder} is not named as in iNat21, "
                    "00000_Kingdom_Phylum_Class_Order_Family_Genus_species. Give the folder with the class "
                    "folders, images.root=/data/inat21/train, or read other names by images=folder."
                )
        return Listing(paths, taxonomy)


def taxonomy(path: str) -> Row:
    """Columns of an image by its class folder.

    >>> row = taxonomy("00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris/a.jpg")
    >>> row["class_id"], row["order"], row["species"]
    (0, 'Haplotaxida', 'Lumbricus terrestris')
    """
    return _of_folder(path.partition("/")[0])


@cache  # 10,000 folders, millions of images
def _of_folder(folder: str) -> Row:
    number, *ranks, epithet = folder.split("_")
    return {"class": folder, "class_id": int(number)} | dict(
        zip(RANKS, [*ranks, f"{ranks[-1]} {epithet}"], strict=True)
    )

import pytest
from images.trees import inat21, picture

from saev.images import INat21


def test_folders_spell_the_taxonomy(tmp_path):
    images = INat21(**inat21(tmp_path))
    images.check()
    row = images.labels(2)
    assert row["class"] == "00002_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_rubellus"
    assert row["class_id"] == 2
    ranks = ["Animalia", "Annelida", "Clitellata", "Haplotaxida", "Lumbricidae", "Lumbricus", "Lumbricus rubellus"]
    names = ["kingdom", "phylum", "taxon_class", "order", "family", "genus", "species"]
    assert [row[name] for name in names] == ranks


def test_other_folders_are_named_with_the_remedy(tmp_path):
    arguments = inat21(tmp_path)
    picture(tmp_path / "owl" / "a.jpg")
    with pytest.raises(ValueError, match=r"the folder owl is not named as in iNat21.*images=folder"):
        INat21(**arguments).check()

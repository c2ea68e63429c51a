"""Butterflies or other specimens: images in a folder, and a table with a row per image.

root/**/*.jpg    root/metadata.csv (a column of paths, names or stems; any others: species, subspecies, view, ...)
"""

from dataclasses import dataclass

from saev.images.files import FileImages, Listing, leave_out, require
from saev.images.tables import label_columns, match, read_table, shortened
from saev.images.walking import find_files


@dataclass(kw_only=True)
class Butterflies(FileImages):
    """The images of a table; its other columns are labels."""

    metadata: str = "metadata.csv"
    """Table below root: .csv or .tsv with a header."""
    path_column: str = ""
    """Column with each image's path, name or stem; the first column if empty."""
    unmatched: str = "stop"
    """Rows without a file and files without a row: stop with an error, or drop them."""
    name: str = "butterflies"

    @property
    def kind(self) -> str:
        return "butterflies"

    def listing(self) -> Listing:
        require(self.folder, [self.metadata], "give the table that describes the images, images.metadata=NAME.csv.")
        file = self.folder / self.metadata
        images = find_files(self.folder)
        table = read_table(file, key=self.path_column)
        matches = match(table, images, file)
        if not matches:
            raise ValueError(
                f"{file}: none of its {len(table)} rows ({shortened(table, 2) or 'empty'}) names one of the {len(images)} images "
                f"below {self.root}: name the column that does, images.path_column=NAME, or give another root."
            )
        no_file = [key for key in table if key not in matches]
        no_row = sorted({*images} - {*matches.values()})
        if no_file or no_row:
            lacks = [f"{len(no_file)} rows have no file: {shortened(no_file)}"] if no_file else []
            lacks += [f"{len(no_row)} images have no row: {shortened(no_row)}"] if no_row else []
            leave_out(self.unmatched, f"{file} and the images below {self.root} do not match; {'; '.join(lacks)}")
        rows = label_columns({path: table[key] for key, path in matches.items()})
        return Listing(sorted(rows), rows.__getitem__, from_tables=True)

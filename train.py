"""`saev train` for those who type `python train.py`."""

import sys

from saev.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])

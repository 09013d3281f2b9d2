"""Write scikit-learn's bundled handwritten digits as a folder of PNG files.

1,797 real images of 8 x 8 pixels (Alpaydin and Kaynak, 1998, UCI Optical Recognition of Handwritten
Digits, CC BY 4.0), four of five for training and one for validation, in ImageFolder layout:

    python examples/write_digits.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def write_digits(folder: Path) -> int:
    """Write `folder`/{train,val}/<digit>/<number>.png and return how many there are."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        partition = "val" if number % 5 == 4 else "train"
        path = folder / partition / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = np.round(pixels * (255 / 16)).astype(np.uint8)  # (8, 8), 0..16 -> 0..255
        Image.fromarray(grey).save(path)
    return len(digits.images)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    print(f"{write_digits(target)} images in {target}")

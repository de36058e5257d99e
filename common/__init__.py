"""Code that the bundles share. It imports itself only relatively, so that a packed bundle can carry it renamed."""

import logging
import warnings
from pathlib import Path

# Wherever pydicom is installed, each of MONAI's loaders of images warns that a decoder for graphics cards is not.
warnings.filterwarnings("ignore", "NvImgCodecPydicomReader: nvImageCodec decoder plugin did not register")
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)


def bundle_folder(name: str) -> str:
    """The absolute path of a bundle: the folder `name` beside this package, or, packed, the folder around it."""
    around = Path(__file__).resolve().parent.parent
    return str(around / name if (around / name / "configs").is_dir() else around)

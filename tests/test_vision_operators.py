"""torchvision imports whether or not its compiled part can load."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.vision_operators import SCHEMAS

FOUND = importlib.util.find_spec("torchvision")
NAMES = [schema.split("(")[0] for schema in SCHEMAS]

needs_torchvision = pytest.mark.skipif(FOUND is None, reason="torchvision is not installed")


@needs_torchvision
def test_torchvision_and_what_needs_it_import(repository: Path) -> None:
    code = (
        "from common.vision_operators import make_torchvision_importable as make; make(); make()\n"
        "import torchvision, transformers, torch\n"
        "transformers.PreTrainedModel, torch.ops.torchvision.nms.default"
    )
    result = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], cwd=repository)
    assert result.returncode == 0


@needs_torchvision
def test_every_operator_that_torchvision_describes_is_declared() -> None:
    source = (Path(FOUND.submodule_search_locations[0]) / "_meta_registrations.py").read_text()
    described = re.findall(r'@(?:register_meta|torch\.library\.register_fake)\("(?:torchvision::)?(\w+)"', source)
    assert described
    assert set(described) <= set(NAMES)


def test_nothing_is_declared_twice() -> None:
    assert len(NAMES) == len(set(NAMES))

"""The bundle law_kits19. What all painting bundles share stands in test_law_polyps."""

from __future__ import annotations

from tests.bundles.painter_contract import PainterContract


class TestLawKits19(PainterContract):
    bundle = "law_kits19"
    prompt = "A CT slice of a kidney tumour."
    to_give = {"dataset_dir", "segmenter"}  # noqa: RUF012

"""The bundle law_brisc. What all painting bundles share stands in test_law_polyps."""

from __future__ import annotations

from tests.bundles.painter_contract import PainterContract


class TestLawBrisc(PainterContract):
    bundle = "law_brisc"
    prompt = "An MRI of a brain tumour."

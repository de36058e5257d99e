"""The scores of uncertainty, and the table that compares them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.least_certain import PARTS, main, table, uncertainty
from common.errors import InputError
from tests.bundles.drawn import draw_prepared


def test_a_sure_map_has_no_entropy_and_an_undecided_one_a_bit_a_pixel():
    sure = np.zeros((8, 8))
    sure[:4] = 1
    assert uncertainty(sure) == pytest.approx((0, 0), abs=1e-4)
    undecided = np.full((8, 8), 0.5)
    assert uncertainty(undecided) == pytest.approx((2, 1))  # half of the pixels are lesion, by expectation


def test_a_lesion_twice_as_large_and_as_unsure_is_as_uncertain():
    """The plain mean says that it is twice as uncertain."""
    small, large = np.zeros((16, 16)), np.zeros((16, 16))
    small[:4, :4], large[:4, :8] = 0.7, 0.7
    assert uncertainty(large)[0] == pytest.approx(uncertainty(small)[0], rel=1e-3)
    assert uncertainty(large)[1] == pytest.approx(2 * uncertainty(small)[1], rel=1e-3)


def test_the_table_tells_a_score_that_orders_by_dice_from_one_that_does_not():
    dice = np.linspace(0, 1, 20)
    rows = [(value, 1 - value, value) for value in dice]
    assert [line[1] for line in table(rows)[1:]] == ["1.00", "-1.00"]
    (_, _, worst, best), (_, _, turned, _) = table(rows)[1:]
    assert float(worst) == pytest.approx(dice[:4].mean(), abs=1e-3) and float(best) == float(turned)
    with pytest.raises(InputError, match=f"{PARTS - 1} images"):
        table(rows[: PARTS - 1])


def test_the_command_says_when_the_list_is_too_short(tmp_path, capsys):
    folder = draw_prepared(tmp_path / "drawn")
    with pytest.raises(SystemExit) as ended:
        main(["order_polyps", str(folder)])
    assert ended.value.code == 2 and "2 images" in capsys.readouterr().err

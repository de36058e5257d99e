"""Laws of the paired comparison, and the command line."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import wilcoxon

from common.errors import InputError
from common.evaluation.__main__ import compare, summarise
from common.evaluation.comparison import compare_models
from common.evaluation.intervals import Bootstrap
from common.evaluation.records import METRICS, ImageRecord, write_records
from common.evaluation.summary import summarise as summary_of
from common.evaluation.tables import comparison_table, summary_table

QUICK = Bootstrap(resamples=200)


def model(seed: int, n: int = 24, quality: float = 4) -> list[ImageRecord]:
    areas, rng = np.random.default_rng(0).uniform(0.002, 0.2, n), np.random.default_rng(seed)
    return [
        ImageRecord(
            image=f"images/{i:02}.png", source="kvasir_seg" if i % 3 else "etis", group=f"sequence_{i // 2}",
            height=256, width=256, area=round(float(area), 9), pred_area=0.05, dice=dice, iou=dice / (2 - dice),
            hd95=float("nan") if dice < 0.4 else 50 * (1 - dice), nsd=dice**2, nsd_tolerance=2.0, confidence=0.9,
        )
        for i, (area, dice) in enumerate(zip(areas, rng.beta(quality, 1, n).round(6).tolist(), strict=True))
    ]  # fmt: skip


def rows(result: dict, metric: str = "dice") -> dict[str, dict]:
    return {row["name"]: row for row in result["metrics"][metric]}


def test_swapping_the_models_mirrors_everything():
    forth, back = (compare_models(*pair, bootstrap=QUICK) for pair in ((model(1), model(2)), (model(2), model(1))))
    for metric in METRICS:
        for one, other in zip(forth["metrics"][metric], back["metrics"][metric], strict=True):
            assert (one["p"], one["better"], one["worse"]) == (other["p"], other["worse"], other["better"])
            assert one["mean_a"] == other["mean_b"]
            if one["difference"]["n"]:
                assert one["difference"]["mean"] == -other["difference"]["mean"]
            for interval in ("by_image", "by_group"):
                if one["difference"][interval] is not None:
                    mirrored = [-end for end in reversed(other["difference"][interval])]
                    np.testing.assert_allclose(one["difference"][interval], mirrored, atol=1e-12)


def test_kinds_are_compared_each_for_itself_and_must_agree():
    def planes(records, first="axial"):
        return [replace(each, kinds={"plane": "coronal" if i % 4 else first}) for i, each in enumerate(records)]

    found = rows(compare_models(planes(model(1)), planes(model(2)), bootstrap=QUICK))
    assert (found["plane axial"]["difference"]["n"], found["plane coronal"]["difference"]["n"]) == (6, 18)
    weights = {name: found[name]["difference"]["n"] * found[name]["difference"]["mean"] for name in found}
    assert weights["plane axial"] + weights["plane coronal"] == pytest.approx(weights["all images"])
    with pytest.raises(InputError, match="kinds of images/00"):
        compare_models(planes(model(1)), planes(model(2), first="sagittal"), bootstrap=QUICK)


def test_a_model_does_not_differ_from_itself():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = compare_models(model(1), model(1), bootstrap=QUICK)
    everything = rows(result)["all images"]
    assert (everything["p"], everything["better"], everything["worse"]) == (1.0, 0, 0)
    assert everything["difference"]["by_group"] == [0.0, 0.0]


def test_differences_are_those_of_the_images():
    a, b = model(1), model(2)
    found = rows(compare_models(a, random.Random(0).sample(b, len(b)), bootstrap=QUICK))
    differences = np.array([y.dice - x.dice for x, y in zip(a, b, strict=True)])
    assert found["all images"]["difference"]["mean"] == pytest.approx(differences.mean())
    assert found["all images"]["p"] == pytest.approx(wilcoxon(differences).pvalue)
    per_source = [
        np.mean([d for d, x in zip(differences, a, strict=True) if x.source == s]) for s in ("etis", "kvasir_seg")
    ]
    assert found["mean of sources"]["difference"]["mean"] == pytest.approx(np.mean(per_source))
    assert found["mean of sources"]["p"] is None
    sizes = [row for name, row in found.items() if "%" in name]
    assert sum(row["difference"]["n"] for row in sizes) == len(a)


def test_hausdorff_counts_images_with_a_distance_in_both_and_lower_is_better():
    a = model(1)
    b = [replace(r, hd95=r.hd95 - 1 - i / 100) for i, r in enumerate(a)]
    a[0], b[1] = replace(a[0], hd95=float("nan")), replace(b[1], hd95=float("nan"))
    undefined = sum(np.isnan(x.hd95) or np.isnan(y.hd95) for x, y in zip(a, b, strict=True))
    row = rows(compare_models(a, b, bootstrap=QUICK), "hd95")["all images"]
    assert (row["better"], row["worse"]) == (len(a) - undefined, 0)
    assert (row["difference"]["n"], row["difference"]["undefined"]) == (len(a) - undefined, undefined)
    assert row["mean_b"] - row["mean_a"] == pytest.approx(row["difference"]["mean"])
    assert -1.24 < row["difference"]["mean"] < -1


def test_a_clear_gain_is_found_and_a_shuffled_one_is_not():
    a = model(1, 60)
    better = [replace(r, dice=min(1.0, r.dice + 0.02 + 0.001 * i)) for i, r in enumerate(a)]
    gained = rows(compare_models(a, better, bootstrap=QUICK))["all images"]
    assert gained["p"] < 1e-6 and gained["difference"]["by_group"][0] > 0
    coin = random.Random(3)
    noisy = [replace(r, dice=r.dice + coin.choice((-1, 1)) * 0.01 * coin.random()) for r in a]
    none = rows(compare_models(a, noisy, bootstrap=QUICK))["all images"]
    assert none["p"] > 0.05 and none["difference"]["by_group"][0] < 0 < none["difference"]["by_group"][1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda records: records[1:], r"only first has images/00\.png"),
        (lambda records: [*records, replace(records[0], image="images/more.png")], r"only second has images/more\.png"),
        (lambda records: [replace(records[0], source="cvc_300"), *records[1:]], r"the source of images/00\.png"),
        (lambda records: [replace(r, height=512, width=512) for r in records], "height of .* and 21 more"),
        (lambda records: [replace(r, nsd_tolerance=3.0) for r in records], "nsd_tolerance"),
        (lambda records: [replace(records[0], area=0.3), *records[1:]], r"different masks of images/00\.png"),
    ],
)
def test_what_cannot_be_paired_is_refused_by_name(change, message):
    with pytest.raises(InputError, match=message):
        compare_models(model(1), change(model(2)), names=("first", "second"))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{name}.csv" for name in "abc"]
    for seed, path in enumerate(paths):
        write_records(path, model(seed))
    return [str(path) for path in paths]


def test_compare_prints_the_table_and_writes_the_figures(files, tmp_path, capsys):
    compare(*files, out=str(tmp_path / "out.json"), bootstrap=200)
    written = json.loads((tmp_path / "out.json").read_text())["comparisons"]
    assert [(one["a"], one["b"]) for one in written] == [(files[0], files[1]), (files[0], files[2])]
    expected = [compare_models(model(0), model(i), names=(files[0], files[i]), bootstrap=QUICK) for i in (1, 2)]
    assert written == expected
    assert capsys.readouterr().out == "\n\n".join(comparison_table(one) for one in expected) + "\n"


def test_summarise_prints_the_table_of_the_file(files, capsys):
    summarise(files[0], bootstrap=200)
    assert capsys.readouterr().out == summary_table(summary_of(model(0), bootstrap=QUICK)) + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "{0}"], "two or more files"),
        (["compare", "{0}", "{0}x"], "cannot read"),
        (["compare", "{0}", "{1}", "--bootstrap", "many"], "--bootstrap has to be a whole number"),
        (["compare", "{0}", "{1}", "--out"], "--out needs a value"),
        (["summarise", "{0}", "--seed", "-1"], "--seed must be"),
    ],
)
def test_wrong_command_is_one_line_and_code_two(files, arguments, message, capsys):
    import fire

    with pytest.raises(SystemExit) as caught:
        fire.Fire({"compare": compare, "summarise": summarise}, [part.format(*files) for part in arguments])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_command_line_needs_neither_torch_nor_monai(files, repository):
    code = (
        "import runpy, sys; sys.argv = ['evaluation', 'summarise', sys.argv[1], '--bootstrap', '50']\n"
        "runpy.run_module('common.evaluation', run_name='__main__')\n"
        "assert not {'torch', 'monai'} & set(sys.modules), 'slow imports'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, files[0]], cwd=repository, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "mean of sources" in done.stdout

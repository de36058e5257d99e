"""The page: whole in one file, of the figures that were measured, without patients unless they are asked for."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data import read_datalist
from common.data.phantoms import prepare_phantoms
from common.files import write_json
from common.law.loading import build_tiny, save_denoiser
from common.metrics.__main__ import audit_command, quality_command, recovery_command, report_command
from tests.metrics.test_recovery import paint


class Page(HTMLParser):
    """What a page refers to, and whether its elements are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.referred: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.referred += [value for name, value in attrs if name in ("src", "href", "srcset") and value]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "set"
    prepare_phantoms(folder, count=16, test_count=8, size=96, progress=False)
    return folder


@pytest.fixture(scope="module")
def painted(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy copies, with what LAW leaves beside its images, a name in it that no page may take for its own."""
    folder = paint(tmp_path_factory.mktemp("painted") / "set", read_datalist(real, None, "training")[:8])
    generator = np.random.default_rng(0)
    for path in (folder / "images").iterdir():
        pixels = np.asarray(Image.open(path), float) + generator.normal(0, 60, (64, 64, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    Image.new("RGB", (40, 30)).save(folder / "overview.png")
    write_json(
        folder / "generation.json", {"model": "f00d", "prompt": "<script>alert(1)</script>", "steps": 50, "eta": None}
    )
    return folder


@pytest.fixture(scope="module")
def measured(real: Path, painted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    quality_command(str(painted), str(real), out=str(out), resamples=5)
    recovery_command(str(painted), str(real), out=str(out))
    audit_command(str(painted), str(real), out=str(out))
    return out


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "strips").mkdir(parents=True)
    rows = [f"{epoch},0.1,{0.2 / epoch},{0.1 / epoch},{0.15 / epoch}" for epoch in (1, 2, 3)]
    (folder / "history.csv").write_text(
        "\n".join(["epoch,loss,val_lesion_error,val_background_error,val_error", *rows])
    )
    for epoch in range(1, 8):
        Image.new("RGB", (8, 8)).save(folder / "strips" / f"epoch_{epoch:04d}.png")
    return folder


def page_of(out: Path) -> str:
    return (out / "report.html").read_text()


def test_it_is_whole_in_one_file_and_shows_what_was_measured(painted, measured, run, capsys) -> None:
    report_command(str(painted), out=str(measured), run=str(run))
    assert "written: " in capsys.readouterr().out
    text = page_of(measured)
    page = Page(text)
    assert not page.open and page.referred
    assert all(each.startswith("data:image/") for each in page.referred)
    assert not re.search(r"https?:|@import|url\(", re.sub(r'src="data:[^"]*"', "", text))
    figures = json.loads((measured / "recovery.json").read_text())["measured"]
    for name in ("painted", "real_at_size"):
        assert f"{100 * figures[name]['dice'][0]:.1f}" in text
    assert f"{json.loads((measured / 'quality.json').read_text())['rows'][1][1]}" in text
    assert "No sign of copies" in text and "the real images" in text
    assert [int(each) for each in re.findall(r"strip of samples after epoch (\d+)", text)] == [1, 3, 5, 7]
    assert "&lt;script&gt;" in text and "<script>" not in text
    assert "<dt>eta</dt>" not in text and "<dt>steps</dt>" in text  # what was not set is not told


def test_patients_are_on_it_only_where_they_are_asked_for(painted, measured) -> None:
    report_command(str(painted), out=str(measured))
    without = page_of(measured)
    report_command(str(painted), out=str(measured), training_images=True)
    assert "keep this page as you keep them" in page_of(measured) and "keep this page" not in without
    assert len(Page(page_of(measured)).referred) == len(Page(without).referred) + 1


def test_what_was_not_measured_is_told_with_its_command(painted, tmp_path) -> None:
    report_command(str(painted), out=str(tmp_path / "new"))
    text = page_of(tmp_path / "new")
    for name in ("quality", "recovery", "audit"):
        assert f"Not measured: python -m common.metrics {name}" in text
    assert "name its output folder with --run" in text


def test_figures_of_other_images_are_refused(real, measured, tmp_path, capsys) -> None:
    other = paint(tmp_path / "other", read_datalist(real, None, "training")[:5])
    before = sorted(path.name for path in measured.iterdir())
    with pytest.raises(SystemExit):
        report_command(str(other), out=str(measured))
    assert "was measured on other images than are painted now; run that command again" in capsys.readouterr().err
    assert sorted(path.name for path in measured.iterdir()) == before


def test_a_run_of_another_model_is_told(painted, measured, run, capsys) -> None:
    save_denoiser(run / "model", build_tiny(image_size=32, control=True))
    with pytest.raises(SystemExit):
        report_command(str(painted), out=str(measured), run=str(run))
    assert "its model is not the one that painted these images" in capsys.readouterr().err


def test_a_run_that_is_none_is_told(painted, measured, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        report_command(str(painted), out=str(measured), run=str(tmp_path))
    assert "there is no history.csv" in capsys.readouterr().err


def test_of_real_images_there_is_no_such_page(real: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        report_command(str(real), out=str(tmp_path))
    assert "was not painted by LAW" in capsys.readouterr().err and not (tmp_path / "report.html").exists()

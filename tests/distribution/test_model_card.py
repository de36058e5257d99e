"""The model card and the metadata tell the same figures, and the hub's own classes can read the card."""

from __future__ import annotations

import json
import re

import pytest
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index

from bundles.model_card import model_card
from bundles.sources import bundle_names
from tests.bundles.contract import REPOSITORY

NUMBER = re.compile(r"\d[\d.,]*\d|\d")


def _metadata(name: str) -> dict:
    return json.loads((REPOSITORY / name / "configs" / "metadata.json").read_text())


def _texts(value) -> list[str]:
    # All keys and values of parsed JSON, as they would be printed.
    if isinstance(value, dict):
        return [text for key, each in value.items() for text in (key, *_texts(each))]
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return [str(value)]


def _figures(card: str) -> set[str]:
    return set(NUMBER.findall(card))


@pytest.fixture(params=bundle_names(REPOSITORY))
def name(request) -> str:
    return request.param


def test_every_figure_of_a_card_is_in_the_metadata(name):
    told = {figure for text in [*_texts(_metadata(name)), name] for figure in NUMBER.findall(text.lower())}
    assert _figures(model_card(_metadata(name), name).lower()) - told == set()


def test_every_measured_figure_is_in_the_card_and_follows_the_metadata(name):
    metadata = _metadata(name)
    measured = metadata.get("eval_metrics", {})
    index = ModelCard(model_card(metadata, name)).data.eval_results or []
    assert {each.metric_name.replace(" ", "_"): each.metric_value for each in index} == measured
    section = model_card(metadata, name).split("## Measured")[1].split("## Licence")[0]
    table = dict(re.findall(r"^\| ([a-z ]+) \| (\d.*?) \|$", section, re.MULTILINE))
    assert {key.replace(" ", "_"): float(value) for key, value in table.items()} == measured
    metadata["eval_metrics"] = {"mean_dice_one_pass": 0.4321}
    changed = ModelCard(model_card(metadata, name))
    assert [each.metric_value for each in changed.data.eval_results] == [0.4321]
    assert changed.text.count("0.4321") == 1 and not {str(value) for value in measured.values()} & _figures(
        changed.content
    )


def test_the_hub_reads_it(name):
    metadata = _metadata(name)
    data = ModelCard(model_card(metadata, name)).data
    assert (data.license, data.library_name) == ("other", "monai")
    assert data.license_name in ModelCard(model_card(metadata, name)).content
    assert re.fullmatch(r"[a-z0-9.-]+", data.license_name)
    assert (REPOSITORY / name / data.license_link).is_file()
    assert data.pipeline_tag == ("image-segmentation" if name.startswith("order") else "image-to-image")
    if results := data.eval_results:
        assert all(isinstance(each, EvalResult) for each in results)
        (again,) = eval_results_to_model_index(metadata["name"], results)
        assert again["results"][0]["dataset"]["type"] == name.split("_")[1]


def test_terms_and_intended_use_are_told(name):
    card = model_card(_metadata(name), name)
    assert _metadata(name)["intended_use"] in card and _metadata(name)["copyright"] in card
    assert "Not a medical device" in card


def test_links_lead_to_what_the_bundle_ships(name):
    links = re.findall(r"\]\(([^)#:]+)\)", model_card(_metadata(name), name))
    assert links and all((REPOSITORY / name / "docs" / link).is_file() for link in links)

"""Two processes under torchrun, over gloo on a CPU, with the overlay multi_gpu_train.yaml."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from common.training import begin_distributed
from common.weights import load_weights
from tests.training.states import differences, read

pytestmark = pytest.mark.slow

EPOCHS = 10


@pytest.fixture(scope="module")
def small_set(draw_set, tmp_path_factory) -> Path:
    """Three pictures to train on, fewer than the batch of a process; five to validate, which two cannot share alike."""
    return draw_set(tmp_path_factory.mktemp("few") / "set", 3, 5)


@pytest.fixture(scope="module")
def ranks(small_set, quick, write_overlay, repository, tmp_path_factory) -> list[Path]:
    """A folder for each of two processes that trained together: what it wrote, and the weights it ended with."""
    root = tmp_path_factory.mktemp("ranks")
    overlay = write_overlay(
        {
            "output_dir": f"$'{root}/rank_' + str(torch.distributed.get_rank())",
            "finalize": [
                "$torch.save(@network_def.state_dict(), @output_dir + '.pt')",
                {"_target_": "ignite.distributed.finalize"},
            ],
        }
    )
    configs = ["order_polyps/configs/train.yaml", "order_polyps/configs/multi_gpu_train.yaml", str(overlay), str(quick)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    given = {"config_file": configs, "dataset_dir": small_set, "epochs": EPOCHS, "batch_size": 4, "image_size": 64}
    given |= {"learning_rate": 0.01, "validate#dataloader#batch_size": 1}
    flags = [str(text) for key, value in given.items() for text in (f"--{key}", value)]
    done = subprocess.run(
        [*launch, "-m", "monai.bundle", "run", "training", *flags],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [root / "rank_0", root / "rank_1"]


def test_both_end_with_the_same_weights_and_statistics(ranks):
    ends = [read(folder.with_suffix(".pt")) for folder in ranks]
    assert list(differences(*ends)) == []
    assert list(differences(ends[0], read(ranks[0] / "latest.pt")["network"])) == []


def test_the_first_alone_writes(ranks):
    files = {"model.pt", "model.trained_on.json", "latest.pt", "history.csv", "tensorboard"}
    assert {path.name for path in ranks[0].iterdir()} == files
    assert list(ranks[1].iterdir()) == []


def test_each_metric_is_the_one_of_the_kept_weights_over_all_images(ranks, small_set, configured):
    rows = list(csv.DictReader((ranks[0] / "history.csv").read_text().splitlines()))
    metrics = [float(row["val_mean_dice"]) for row in rows]
    assert len(metrics) == EPOCHS and len(set(metrics)) > 3
    parser = configured(dataset_dir=str(small_set), **{"validate#dataloader#batch_size": 1, "validate#handlers": []})
    load_weights(parser.get_parsed_content("network_def"), ranks[0] / "model.pt")
    evaluator = parser.get_parsed_content("validate#evaluator")
    evaluator.run()
    assert evaluator.state.metrics["val_mean_dice"] == max(metrics) == read(ranks[0] / "latest.pt")["best"]


def test_outside_torchrun_it_is_one_line(train, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        begin_distributed()
    assert ended.value.code == 2
    direct = capsys.readouterr().err
    assert direct.startswith("error: ") and direct.count("\n") == 1 and "torchrun --nproc_per_node" in direct
    with pytest.raises(SystemExit) as ended:
        train(tmp_path / "run", "multi_gpu_train.yaml")
    assert ended.value.code == 2 and direct in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

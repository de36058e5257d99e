"""What is kept of a table: the same cells as text, Markdown and CSV, with its budget, machine and commit."""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
from pathlib import Path

from benchmarks import reporting

HEADER, ROWS = ("row", "Dice", "a|b"), [("ORDER[0, 1]", "72.0 ± 0.4", 'say "x", y'), ("backbone", "69.0", "–")]


def test_the_three_forms_hold_the_same_cells(tmp_path: Path) -> None:
    text = reporting.publish(tmp_path, "table_7", HEADER, ROWS, "20 epochs\nin percent")
    with (tmp_path / "table_7.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == [*HEADER, "budget", "machine"]
    assert [row[:3] for row in rows] == [list(row) for row in ROWS]
    assert all(row[3] == "20 epochs in percent" and "torch" in row[4] for row in rows)
    lines = (tmp_path / "table_7.md").read_text().splitlines()
    assert lines[1] == "|---|---|---|" and lines[0] == "| row | Dice | a¦b |"
    assert [each.strip() for each in lines[2].strip("|").split("|")] == list(ROWS[0])
    assert lines[5:7] == ["20 epochs", "in percent"] and "torch" in lines[7] and "cores" in lines[7]
    assert text.endswith("20 epochs\nin percent") and "72.0 ± 0.4" in text


def test_the_commit_is_that_of_the_checkout_with_a_mark_where_it_was_changed(tmp_path: Path, monkeypatch) -> None:
    def git(*arguments: str) -> str:
        own = ["-c", "user.name=x", "-c", "user.email=x@y"]
        return subprocess.run(["git", "-C", str(tmp_path), *own, *arguments], capture_output=True, text=True).stdout

    monkeypatch.setattr(reporting, "__file__", str(tmp_path / "reporting.py"))
    assert reporting.commit() is None
    git("init")
    (tmp_path / "reporting.py").write_text("1\n")
    git("add", ".")
    git("commit", "-m", "x")
    head = git("rev-parse", "HEAD").strip()
    assert re.fullmatch(r"[0-9a-f]{12}", reporting.commit()) and head.startswith(reporting.commit())
    (tmp_path / "reporting.py").write_text("2\n")
    assert reporting.commit() == f"{head[:12]}+"


def test_a_benchmark_keeps_its_table_beside_its_figures(tmp_path: Path) -> None:
    settings = argparse.Namespace(out=str(tmp_path / "speed.json"), rounds=3, threads=None)
    head = reporting.heading("benchmarks.x", settings)
    reporting.finish(settings, head, [{"a": 1}], (HEADER, ROWS))
    assert {path.name for path in tmp_path.iterdir()} == {"speed.json", "speed.md", "speed.csv"}
    assert json.loads((tmp_path / "speed.json").read_text())["results"] == [{"a": 1}]
    assert "rounds=3" in (tmp_path / "speed.md").read_text()

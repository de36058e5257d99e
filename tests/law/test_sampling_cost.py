"""What LAW costs when it paints: nothing. A model trained with it samples by the very graph of one trained without."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from common.law import load_denoiser
from common.law.codec import PixelCodec
from common.law.sampling import sample
from common.law.weighter import LearnableAdaptiveWeighter
from tests.law.small import masks, prompts
from tests.law.test_engine import Run


class Operations(TorchDispatchMode):
    """Records every operation, with the shapes of what goes in and comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.trace: list[tuple[str, list, list]] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), options: dict | None = None) -> Any:
        result = function(*arguments, **(options or {}))
        self.trace.append((str(function), _shapes((arguments, options)), _shapes(result)))
        return result


def _shapes(tree: Any) -> list[tuple]:
    return [(tuple(each.shape), each.dtype) for each in tree_leaves(tree) if isinstance(each, torch.Tensor)]


class Cost(NamedTuple):
    """Of painting two images with what a training left."""

    modules: list[tuple[str, str]]
    operations: list
    flops: int
    peak_bytes: int


def _cost(folder: Path) -> Cost:
    parts = load_denoiser(folder)

    def paint() -> None:
        given = {"prompts": prompts(parts), "scheduler": parts.scheduler, "codec": PixelCodec()}
        sample(parts.denoiser, masks(2), [1, 2], steps=3, batch_size=2, **given)

    paint()  # what is made once
    with Operations() as operations:
        paint()
    with FlopCounterMode(display=False) as counter:
        paint()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
        paint()
    events = [each for each in watch.profiler.kineto_results.events() if each.name() == "[memory]"]
    held = accumulate(each.nbytes() for each in sorted(events, key=lambda each: each.start_ns()))
    modules = [(name, type(module).__qualname__) for name, module in parts.denoiser.named_modules()]
    return Cost(modules, operations.trace, counter.get_total_flops(), max(held))


@pytest.fixture(scope="module")
def uniform(tmp_path_factory: pytest.TempPathFactory) -> Cost:
    folder = tmp_path_factory.mktemp("uniform")
    Run(folder, "uniform", epochs=1).trainer.run()
    return _cost(folder / "model")


@pytest.mark.parametrize("objective", ["law", "law_v1"])
def test_painting_costs_what_it_costs_without_law(uniform, tmp_path, monkeypatch, objective) -> None:
    """The same modules, operations, FLOPs and peak memory; and the weighter, were it there, would not be called."""
    Run(tmp_path, objective, epochs=1).trainer.run()

    def called(*_: Any) -> None:
        raise AssertionError("the weighter was called")

    monkeypatch.setattr(LearnableAdaptiveWeighter, "forward", called)
    own = _cost(tmp_path / "model")
    assert own.modules == uniform.modules and len(own.modules) > 50
    assert own.operations == uniform.operations and len(own.operations) > 100
    assert own.flops == uniform.flops > 0
    assert own.peak_bytes == uniform.peak_bytes > 0

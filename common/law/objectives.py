"""What a mask-conditioned denoiser is trained with: LAW, and what it is compared to, on one call.

    result = objective(prediction, target, mask, teacher=None)
    result.loss.backward()

The student's prediction ε̂ˢ, its target ε (or v) and the teacher's prediction ε̂ᵀ are ``(B, C, h, w)``; the mask is
anything that `latent_mask` takes. Every objective is computed in float32 or wider.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import InputError
from .alignment import EMPTY_MASKS, alignment_loss
from .masks import latent_mask
from .weighter import LearnableAdaptiveWeighter, ratio_weights


class ObjectiveResult(NamedTuple):
    """What an objective says of a batch.

    loss: the scalar to descend.
    parts: scalars without a gradient: ``"mse"``, the student's plain mean squared error, which compares objectives,
        and each term of the loss before its coefficient.
    weights: of the student's error, ``(B, 1, h, w)``.
    delta: δ, ``(B, 1, h, w)``, or None where nothing is learned.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    weights: Tensor
    delta: Tensor | None


def error_map(prediction: Tensor, target: Tensor) -> Tensor:
    """The squared error, unreduced: ``(B, C, h, w)`` twice → ``(B, C, h, w)``, at least float32."""
    wide = prediction if prediction.dtype == torch.float64 else prediction.float()
    return (wide - target).square()


def weighted_error(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean over samples, channels and positions of the weighted squared error (equation 8).

    Args:
        prediction: ``(B, C, h, w)``.
        target: the same.
        weights: ``(B, 1, h, w)``, for all channels alike.
    """
    return (weights * error_map(prediction, target)).mean()


class Objective(nn.Module):
    """The shared call: checks what it is given, and brings the mask to the size of the error.

    needs_teacher: whether a call must give the teacher's prediction; others pass it over.
    weighter: what `parameter_groups` gives an optimiser group of its own, or None.
    settings: the name and options that `build_objective` made it of.
    """

    needs_teacher = False
    settings: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, weighter: LearnableAdaptiveWeighter | None = None) -> None:
        super().__init__()
        self.weighter = weighter

    def forward(
        self, prediction: Tensor, target: Tensor, mask: Tensor, teacher: Tensor | None = None
    ) -> ObjectiveResult:
        """The loss of a batch.

        Raises:
            InputError: shapes that do not go together, or no teacher where one is needed.
        """
        self._check(prediction, target, mask, teacher)
        result = self.evaluate(prediction, target, latent_mask(mask, prediction.shape[-2:]), teacher)
        mse = error_map(prediction.detach(), target.detach()).mean()
        parts = {"mse": mse, **{name: part.detach() for name, part in result.parts.items()}}
        return result._replace(parts=parts)

    def evaluate(self, prediction: Tensor, target: Tensor, mask: Tensor, teacher: Tensor | None) -> ObjectiveResult:
        """The loss, for a mask of ``(B, 1, h, w)``; `parts` are its terms."""
        raise NotImplementedError

    def _check(self, prediction: Tensor, target: Tensor, mask: Tensor, teacher: Tensor | None) -> None:
        name = type(self).__name__
        if self.needs_teacher and teacher is None:
            raise InputError(f"{name} needs the teacher's prediction: pass teacher=…")
        for what, other in (("target", target), ("teacher", teacher if self.needs_teacher else None)):
            if other is not None and other.shape != prediction.shape:
                raise InputError(f"{name}: {what} {tuple(other.shape)}, but prediction {tuple(prediction.shape)}")
        if len(mask) != len(prediction):
            raise InputError(f"{name}: {len(mask)} masks for {len(prediction)} predictions")


class UniformObjective(Objective):
    """Plain ControlNet: the mean squared error (equation 2)."""

    def evaluate(self, prediction: Tensor, target: Tensor, mask: Tensor, teacher: Tensor | None) -> ObjectiveResult:
        loss = error_map(prediction, target).mean()
        return ObjectiveResult(loss, {}, loss.detach().new_ones(1).expand(mask.shape), None)


class RatioObjective(Objective):
    """ArSDM's weighting: w_ratio as it is, neither normalised nor bounded (equation 3 in equation 8).

    Its loss is about 2r(1 − r) of the plain one, so that in a batch large lesions outweigh small ones; a mask without
    lesion, or a full one, weighs 1.
    """

    def evaluate(self, prediction: Tensor, target: Tensor, mask: Tensor, teacher: Tensor | None) -> ObjectiveResult:
        weights = ratio_weights(mask)
        loss = weighted_error(prediction, target, weights)
        return ObjectiveResult(loss, {"student": loss}, weights, None)


class DistillationObjective(Objective):
    """Adaptive distillation: plain student, and a teacher, which sees the image too, weighted by w_ratio.

    mean((ε̂ˢ − ε)²) + β_T·mean(w_ratio·(ε̂ᵀ − ε)²) + β_D·mean(w_ratio·(ε̂ˢ − stop(ε̂ᵀ))²), both β 1.
    `weights` are those of the student's own error: ones.
    """

    needs_teacher = True

    def __init__(self, teacher_weight: float = 1.0, distillation_weight: float = 1.0) -> None:
        super().__init__()
        self.teacher_weight = teacher_weight
        self.distillation_weight = distillation_weight

    def evaluate(self, prediction: Tensor, target: Tensor, mask: Tensor, teacher: Tensor) -> ObjectiveResult:
        ratio = ratio_weights(mask)
        student = error_map(prediction, target).mean()
        supervised = weighted_error(teacher, target, ratio)
        distilled = weighted_error(prediction, teacher.detach(), ratio)
        loss = student + self.teacher_weight * supervised + self.distillation_weight * distilled
        parts = {"student": student, "teacher": supervised, "distillation": distilled}
        return ObjectiveResult(loss, parts, ratio.new_ones(1).expand(mask.shape), None)


class LawObjective(Objective):
    """LAW as the revision trains it: L_S + λ_dice·L_dice (equations 8 to 10).

    Args:
        weighter: gives w_final and δ.
        dice_weight: λ_dice; 0 switches the term off.
        empty_masks: what the Dice term does without a lesion, see `alignment_loss`.
    """

    def __init__(
        self, weighter: LearnableAdaptiveWeighter, dice_weight: float = 1.0, empty_masks: str = "leave_out"
    ) -> None:
        if empty_masks not in EMPTY_MASKS:
            raise InputError(f"empty_masks is {empty_masks!r}; choose one of {', '.join(EMPTY_MASKS)}")
        super().__init__(weighter)
        self.dice_weight = dice_weight
        self.empty_masks = empty_masks

    def evaluate(self, prediction: Tensor, target: Tensor, mask: Tensor, teacher: Tensor | None) -> ObjectiveResult:
        weights, delta = self.weighter(prediction, mask)
        student = weighted_error(prediction, target, weights)  # equation 8
        dice = alignment_loss(delta, mask, self.empty_masks)  # equation 9
        loss = student + self.dice_weight * dice  # equation 10
        return ObjectiveResult(loss, {"student": student, "dice": dice}, weights, delta)


class LawV1Objective(LawObjective):
    """LAW with a teacher, as version 1 has it: L_S + β_T·L_T + β_D·L_S←T + λ_dice·L_dice (its equations 10 to 12).

    The teacher's own error is not weighted, unlike in `DistillationObjective`; the distance of the student from it is,
    by w_final. No gradient of that distance reaches the teacher, as in the distillation that it builds on.
    """

    needs_teacher = True

    def __init__(
        self,
        weighter: LearnableAdaptiveWeighter,
        dice_weight: float = 1.0,
        empty_masks: str = "leave_out",
        teacher_weight: float = 0.05,
        distillation_weight: float = 0.05,
    ) -> None:
        super().__init__(weighter, dice_weight, empty_masks)
        self.teacher_weight = teacher_weight
        self.distillation_weight = distillation_weight

    def evaluate(self, prediction: Tensor, target: Tensor, mask: Tensor, teacher: Tensor) -> ObjectiveResult:
        law = super().evaluate(prediction, target, mask, None)
        supervised = error_map(teacher, target).mean()  # version 1, equation 10
        distilled = weighted_error(prediction, teacher.detach(), law.weights)  # version 1, equation 11
        loss = law.loss + self.teacher_weight * supervised + self.distillation_weight * distilled  # equation 12
        return law._replace(loss=loss, parts={**law.parts, "teacher": supervised, "distillation": distilled})


OBJECTIVES: dict[str, type[Objective]] = {
    "uniform": UniformObjective,
    "ratio": RatioObjective,
    "distillation": DistillationObjective,
    "law": LawObjective,
    "law_v1": LawV1Objective,
}


def build_objective(name: str, *, in_channels: int = 4, seed: int = 0, **options: Any) -> Objective:
    """An objective by its name.

    Args:
        name: ``"uniform"``, ``"ratio"`` (ArSDM's weighting), ``"distillation"`` (teacher and student), ``"law"``, or
            ``"law_v1"``, which has a teacher too.
        in_channels: of the prediction: 4 for latents, 3 for pixels. Taken by all, used where there is a weighter.
        seed: of the weighter's first weights; likewise.
        options: arguments of the objective and, for the last two, of `LearnableAdaptiveWeighter`.

    Raises:
        InputError: unknown name, an option that this objective has not, or a value out of its range.
    """
    if name not in OBJECTIVES:
        raise InputError(f"no objective is called {name!r}; there are {', '.join(OBJECTIVES)}")
    kind = OBJECTIVES[name]
    own = _arguments(kind) - {"weighter"}
    of_weighter = _arguments(LearnableAdaptiveWeighter) if issubclass(kind, LawObjective) else set()
    if unknown := set(options) - own - of_weighter:
        known = ", ".join(sorted(own | of_weighter)) or "none"
        raise InputError(f"objective {name!r} has no option {', '.join(sorted(unknown))}; it has {known}")
    for key, value in options.items():
        _check_kind(name, key, value, inspect.signature(kind if key in own else LearnableAdaptiveWeighter))
    arguments = {key: value for key, value in options.items() if key in own}
    if of_weighter:
        settings = {key: value for key, value in options.items() if key in of_weighter}
        arguments["weighter"] = LearnableAdaptiveWeighter(in_channels=in_channels, seed=seed, **settings)
    objective = kind(**arguments)
    objective.settings = {"name": name, **options}
    return objective


def parameter_groups(
    denoiser_parameters: Iterable[nn.Parameter], objective: Objective, learning_rate: float, weighter_lr: float = 1e-3
) -> list[dict[str, Any]]:
    """Optimiser groups: ``"denoiser"`` and, where there is a weighter, ``"weighter"`` with a learning rate of its own.

    The paper knows one learning rate. At the denoiser's 1e-5 δ hardly leaves its first values in a training of 1,000
    steps; at 1e-3 it settles in about a hundred.

    Args:
        denoiser_parameters: with a teacher, its own among them; those that take no gradient are passed over.
        objective: of `build_objective`.
        learning_rate: of the denoiser.
        weighter_lr: of φ.

    Raises:
        InputError: nothing of the denoiser takes a gradient.
    """
    trained = [parameter for parameter in denoiser_parameters if parameter.requires_grad]
    if not trained:
        raise InputError("no parameter of the denoiser takes a gradient: choose what is trained before the optimiser")
    groups: list[dict[str, Any]] = [{"name": "denoiser", "params": trained, "lr": learning_rate}]
    if objective.weighter is not None:
        groups.append({"name": "weighter", "params": list(objective.weighter.parameters()), "lr": weighter_lr})
    return groups


def _check_kind(name: str, key: str, value: Any, signature: inspect.Signature) -> None:
    # By the kind of the default; a bound may be None.
    default = signature.parameters[key].default
    if isinstance(default, bool):
        kind, right = "True or False", isinstance(value, bool)
    elif isinstance(default, int | float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = not isinstance(default, int) or isinstance(value, int)
        kind, right = "a number", (number and whole) or (value is None and key in ("w_min", "w_max"))
    elif isinstance(default, tuple):
        kind, right = f"{len(default)} numbers in brackets", isinstance(value, list | tuple)
    else:
        kind, right = "a name", isinstance(value, str)
    if not right:
        raise InputError(f"objective {name!r}: {key} has to be {kind}, such as {default}; it is {value!r}")


def _arguments(kind: type[nn.Module]) -> set[str]:
    return set(inspect.signature(kind).parameters) - {"self"}

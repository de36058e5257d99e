"""What a training begins with: the image prior from nothing, or a control network on a prior that is there."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from .denoiser import TRAINABLE
from .libraries import ControlNetModel
from .loading import SETTINGS, Parts, build_tiny, joined_licences, load_denoiser, load_sd15
from .mask_sources import licence_of
from .presets import SD15, find_preset
from .pretrained import how_to_get_sd15, read_control_network


def begin_stage(
    preset: str,
    trainable: str,
    weights: str | Path | None = None,
    base: str | Path | None = None,
    image_size: int | None = None,
    seed: int = 0,
    keep_control: bool = False,
    prompt: str = "",
    objective: str = "",
    gradient_checkpointing: bool = False,
    control_scale: float = 1.0,
    control: str | Path | None = None,
    dataset_dir: str | Path | None = None,
) -> Parts:
    """The parts to train, with what learns chosen.

    Args:
        preset: "sd15" or "tiny".
        trainable: "prior", "control" or "control+decoder" (`MaskConditionedDenoiser.set_trainable`).
        weights: a folder that an earlier stage saved (``runs/…/model``), to go on with; for "sd15" also the folder or
            hub id of Stable Diffusion 1.5; None, for "tiny" alone, to begin with first weights.
        base: for "sd15" with the weights of an earlier stage, the folder of Stable Diffusion 1.5.
        image_size: None for the preset's, or that of `weights`.
        seed: of first weights.
        keep_control: go on with the control network that `weights` has; else a new one begins on its U-Net.
        prompt: that images are trained with.
        objective: its name, which is saved with the model.
        gradient_checkpointing: less memory for more time.
        control_scale: that the model paints with when it is not told otherwise; saved with it.
        control: a folder with a control network in diffusers' layout, to begin with in the place of a new one.
        dataset_dir: the prepared folder that is trained on, whose terms join those of `weights`.

    Raises:
        InputError: for a value that is not known, a control stage without a prior to stand on, or weights that are
            missing, of another preset, or faulty.
    """
    if trainable not in TRAINABLE:
        raise InputError(f"trainable: {trainable!r} is none of {', '.join(TRAINABLE)}")
    parts = _loaded(find_preset(preset).name, trainable, weights, base, image_size, seed)
    if trainable == "prior":
        parts.denoiser.controlnet = None
    elif control is not None:
        parts.denoiser.controlnet = _given_control(control, parts, keep_control)
    elif parts.denoiser.controlnet is None or not keep_control:
        parts.add_control(seed)
    parts.prompt, parts.objective, parts.control_scale = prompt, objective, float(control_scale)
    parts.licence = joined_licences(parts.licence, None if dataset_dir is None else licence_of(dataset_dir))
    parts.denoiser.set_trainable(trainable).set_gradient_checkpointing(gradient_checkpointing)
    return parts


def _given_control(control: str | Path, parts: Parts, keep_control: bool) -> ControlNetModel:
    if keep_control:
        raise InputError("control: keep_control goes on with the one that weights has; give one of the two")
    network, unet = read_control_network(control), parts.denoiser.unet.config
    shared = ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim")
    wanted = {key: unet[key] for key in shared}
    wanted |= {"conditioning_channels": 3, "conditioning_embedding_out_channels": parts.preset.embedding_channels}
    for key, value in wanted.items():
        own = network.config[key]
        if (tuple(own) if isinstance(own, list) else own) != (tuple(value) if isinstance(value, list) else value):
            raise InputError(f"control: {control}: {key} is {own}, and it has to be {value}; give one of this U-Net")
    return network


def _loaded(
    preset: str,
    trainable: str,
    weights: str | Path | None,
    base: str | Path | None,
    image_size: int | None,
    seed: int,
) -> Parts:
    if weights is None:
        if preset == SD15.name:
            raise InputError(
                f"weights: the preset sd15 needs Stable Diffusion 1.5: --weights FOLDER; {how_to_get_sd15()}"
            )
        if trainable != "prior":
            raise InputError(
                "weights: a control network learns on an image prior; train that first (the overlay prior.yaml), and "
                "give its folder as --weights runs/…/model"
            )
        return build_tiny(seed, image_size)
    if preset == SD15.name and not (Path(weights) / SETTINGS).is_file():
        return load_sd15(weights, image_size, seed)
    parts = load_denoiser(weights, base)
    if parts.preset.name != preset:
        raise InputError(f"weights: {weights} is of the preset {parts.preset.name}, not {preset}; give --preset too")
    parts.preset = parts.preset.at(image_size)
    return parts

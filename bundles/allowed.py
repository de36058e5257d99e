"""The allow-lists: all that a packed bundle's configs may name, call or evaluate, each entry read by a person.

A name or an expression that a config of the collection takes up has to be put here too, or its bundle does not verify.
Before it is: can what it calls be made to run something else by its arguments, by a text that it looks up as a name
(``reader="os.system"``), or by what a reference in it may stand for?
"""

from __future__ import annotations

from .boot import FIND_FOLDER, FIND_PACKAGE, IMPORTS

# ---- bundles with Python of their own ------------------------------------------------------------------------

# Besides what the bundle's own package defines.
TARGETS = frozenset(
    {
        "Activationsd",
        "AsDiscreted",
        "CacheDataset",
        "Compose",
        "CopyItemsd",
        "DataLoader",
        "Dataset",
        "DiceCELoss",
        "EnsureChannelFirstd",
        "EnsureTyped",
        "Invertd",
        "LoadImaged",
        "LrScheduleHandler",
        "RandAffined",
        "RandFlipd",
        "RandRotate90d",
        "RandRotated",
        "RandSpatialCropd",
        "Resized",
        "ScaleIntensityRanged",
        "SimpleInferer",
        "SlidingWindowInferer",
        "SpatialPadd",
        "SqueezeDimd",
        "StatsHandler",
        "SupervisedEvaluator",
        "SupervisedTrainer",
        "TensorBoardStatsHandler",
        "Transposed",
        "ValidationHandler",
        "WarmupCosineSchedule",
        "diffusers.training_utils.EMAModel",
        "ignite.distributed.finalize",
        "ignite.distributed.get_rank",
        "ignite.distributed.get_world_size",
        "ignite.handlers.EMAHandler",
        "ignite.handlers.ProgressBar",
        "monai.utils.first",
        "pytorch_optimizer.AdEMAMix",
        "torch.optim.AdamW",
        "torch.optim.lr_scheduler.ConstantLR",
        "torch.optim.lr_scheduler.CosineAnnealingLR",
        "torch.utils.data.DistributedSampler",
    }
)

# To the letter. Those that only compute with values and references need not be here (`expressions.computes_only`).
EXPRESSIONS = frozenset(
    {
        *IMPORTS,
        FIND_PACKAGE,
        "$@ema and @ema.momentum",
        "$@ema.ema_model",
        "$@epochs * len(@train#dataloader)",
        "$@evaluator.run()",
        "$@evaluator.run() if len(@dataset) else None",
        "$@loss.needs_teacher",
        "$@network.parameters()",
        "$@network_def.to(@device)",
        "$@network_def.trained_parameters()",
        "$@painter.run() if len(@painting.dataset) else None",
        "$@painting.dataset",
        "$@painting.finish()",
        "$@painting.painter",
        "$@painting.pairs",
        "$@parts.denoiser",
        "$@parts.denoiser.trainable_parameters()",
        "$@parts.open_codec",
        "$@parts.preset.image_size",
        "$@parts.preset.latent_channels",
        "$@parts.scheduler",
        "$@postprocessing.transforms + @as_file.transforms",
        "$@train#dataset.data",
        "$@train#trainer.run()",
        "$dict(dtype=@amp_dtype)",
        "$getattr(@ema, 'decay', None)",
        "$getattr(torch, @model_dtype)",
        "$int(0.05 * @epochs * len(@train#dataloader))",
        "$int(0.05 * @steps * @accumulation_steps)",
        "$len(@train#sampler) > @batch_size",
        "$monai.utils.set_determinism(seed=0)",
        "$monai.utils.set_determinism(seed=@seed if isinstance(@seed, int) else 0)",
        "$str(@loss.settings)",
        "$str(@train#resolution#stages)",
        "$sys.stderr.isatty()",
        "$torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float16",
        "$torch.cuda.is_available()",
        "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "$torch.distributed.is_initialized() and torch.distributed.get_rank() > 0",
    }
)

# ---- bundles without Python ----------------------------------------------------------------------------------

# The whole of what their one config, inference.json, may name and evaluate: no other file's rule applies to them.
CODE_FREE_TARGETS = frozenset(
    {
        "Activationsd",
        "AsDiscreted",
        "Compose",
        "DataLoader",
        "Dataset",
        "EnsureChannelFirstd",
        "Invertd",
        "LoadImaged",
        "PILReader",
        "Resized",
        "SaveImaged",
        "ScaleIntensityRanged",
        "SimpleInferer",
        "SupervisedEvaluator",
        "SqueezeDimd",
        "Transposed",
        "ignite.handlers.ProgressBar",
        "torch.jit.load",
    }
)
CODE_FREE_EXPRESSIONS = frozenset(
    {
        *IMPORTS,
        FIND_FOLDER,
        "$@bundle_root + '/models/model.ts'",
        "$@dataset_dir or exit('error: give --dataset_dir, a folder of images')",
        "$@evaluator.run()",
        "$@items or exit('error: no image in ' + str(@dataset_dir)"
        " + '; the kinds are .png .jpg .jpeg .bmp .tif .tiff')",
        "$[@image_size, @image_size]",
        "$[{'image': str(p)} for p in sorted(Path(@dataset_dir).glob('*'))"
        " if p.suffix.lower() in ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff')] if @dataset_dir else []",
        "$from pathlib import Path",
        "$lambda image: image.convert('RGB') if image.mode in"
        " ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'La', 'RGBa')"
        " else exit('error: ' + image.filename + ' has more than 8 bits a channel; convert it to 8-bit RGB first')",
        "$[Image.open(i['image'], formats=('PNG', 'JPEG', 'BMP', 'TIFF')).load() for i in @items] and None",
        "$0 < @threshold < 1 or exit('error: threshold has to be a number between 0 and 1')",
        "$from PIL import Image",
        "$len({Path(i['image']).stem for i in @items}) == len(@items) or exit('error: two images have one name')",
        "$monai.utils.set_determinism(seed=0)",
        "$not any(Path(@output_dir).glob('*')) or exit('error: ' + @output_dir + ' is not empty; name a new folder')",
        "$np.uint8",
        "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
    }
)

# ---- keys whose text MONAI, torch or we look up as a name ----------------------------------------------------

# By the last part of a key, at any place: the values that it may have. LoadImage and SaveImage import a `reader` or
# `writer` of any dotted name and call it; the sliding window does so with `merger_cls`; `$getattr(torch, @model_dtype)`
# takes any name of torch. "debug" as `_mode_` opens a debugger.
LITERALS: dict[str, frozenset[str]] = {
    "_mode_": frozenset({"default", "callable"}),
    "model_dtype": frozenset({"float32", "float16", "bfloat16"}),
    "reader": frozenset({"PILReader"}),
    "writer": frozenset({"PILWriter"}),
    "merger_cls": frozenset(),
}
# Of bundles without Python besides: what is run as TorchScript is the file that was looked at, and no component is
# handed on to be called with other arguments.
CODE_FREE_LITERALS: dict[str, frozenset[str]] = {
    **LITERALS,
    "_mode_": frozenset({"default"}),
    "bundle_root": frozenset({FIND_FOLDER}),
    "checkpoint": frozenset({"$@bundle_root + '/models/model.ts'"}),
    "f": frozenset({"@checkpoint"}),
}
# Of these, the keys that may also have a component, and of which classes: besides those of the list the bundle's own,
# by its name below its package. Anything else might return the text of a name, which would be looked up.
COMPONENTS: dict[str, frozenset[str]] = {"reader": frozenset({"PILReader"}), "writer": frozenset()}
OWN_COMPONENTS: dict[str, frozenset[str]] = {"reader": frozenset({"inference.RGBReader"}), "writer": frozenset()}
# Returns whatever it is given: it may be given one reference, as the sources do, and nothing else.
PASSES_ON = frozenset({"monai.utils.first"})
# Keys that may not be there at all: `_debug_` opens a debugger where a component is made; with `compile` torch runs
# compilers that options name; the others let readers of files and weights run pickles or fetch code.
FORBIDDEN_KEYS = frozenset(
    {"_debug_", "allow_pickle", "compile", "compile_kwargs", "trust_remote_code", "unpack_items", "weights_only"}
)

# ---- packages -------------------------------------------------------------------------------------------------

# What a bundle may ask a reader to install, by the names of the package index: an installation runs what it fetches.
CODE_FREE_PACKAGES = frozenset({"fire", "monai", "numpy", "pillow", "pytorch-ignite", "torch", "tqdm"})
PACKAGES = CODE_FREE_PACKAGES | {
    "diffusers",
    "jsonschema",
    "matplotlib",
    "nibabel",
    "pytorch-optimizer",
    "pyyaml",
    "safetensors",
    "scipy",
    "tensorboard",
    "transformers",
}

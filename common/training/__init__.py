"""Training with MONAI's engines: reproducible data order, schedules, checkpoints and what is shown on the way."""

from .checkpoints import RunCheckpoint
from .datasets import EpochSeededDataset, EpochSeeding
from .depthwise import placed
from .distributed import begin_distributed, distributed_network, local_device
from .handlers import StopOnNonFiniteLoss, TensorBoardOverlays, TrainingProgressBar, loss_of
from .history import History
from .identity import identified
from .losses import DeepSupervision, StructureLoss
from .memory import keep_freed_memory
from .resolution import ResolutionSchedule
from .sampling import StepSampler, training_sampler
from .statistics import RefreshStatistics

__all__ = [
    "DeepSupervision",
    "EpochSeededDataset",
    "EpochSeeding",
    "History",
    "RefreshStatistics",
    "ResolutionSchedule",
    "RunCheckpoint",
    "StepSampler",
    "StopOnNonFiniteLoss",
    "StructureLoss",
    "TensorBoardOverlays",
    "TrainingProgressBar",
    "begin_distributed",
    "distributed_network",
    "identified",
    "keep_freed_memory",
    "local_device",
    "loss_of",
    "placed",
    "training_sampler",
]

"""VISSL's keys that change nothing here, and why each does not."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

_LOGGED: Final = "progress, throughput and losses are always logged"
_CHECKPOINTS: Final = (
    "a checkpoint is written at an epoch's end, at most every two minutes, and on SIGTERM, and a "
    "run goes on from it by itself"
)
_TORCHRUN: Final = "torchrun and the chart set up the processes"
_LOADING: Final = "how images are read is not a setting"
_LOCAL_COPY: Final = "images are read where they are; mount them from a fast disk instead"
_MEMORY: Final = "a way to save memory that is not needed for these networks and batches"
_UNUSED: Final = "the settings of another method or benchmark"
_UNREADABLE: Final = (
    "an unreadable image is left out with its reason instead of being a grey one; see "
    "data.maxUnreadableFraction"
)
_HEADS: Final = "networks and their heads start as torchvision initialises them"

_WITHOUT_EFFECT: Final[dict[str, str]] = {
    "VERBOSE": _LOGGED,
    "LOG_FREQUENCY": _LOGGED,
    "TEST_ONLY": "a stage that has finished is skipped; evaluate is a stage of its own",
    "TEST_EVERY_NUM_EPOCH": "held-out images are looked at after each epoch",
    "MULTI_PROCESSING_METHOD": _TORCHRUN,
    "MONITOR_PERF_STATS": _LOGGED,
    "PERF_STAT_FREQUENCY": _LOGGED,
    "ROLLING_BTIME_FREQ": _LOGGED,
    "TENSORBOARD_SETUP.*": _LOGGED,
    "HOOKS.*": _LOGGED,
    "MONITORING.*": _LOGGED,
    "PROFILING.*": "there is no profiler",
    "METERS": _LOGGED,
    "METERS.*": "accuracies are reported as they are, top 1",
    "TRAINER.*": "each stage has one training loop",
    "DISTILLATION.*": _UNUSED,
    "SVM.force_retrain": "a stage that has finished is skipped",
    "SVM.OUTPUT_DIR": "everything goes to the run directory, named by `name`",
    "SVM.low_shot.*": "there is no low-shot benchmark",
    "IMG_RETRIEVAL.*": _UNUSED,
    "NEAREST_NEIGHBOR.*": "evaluate has neighbors and temperature of its own",
    "SLURM.*": "Kubernetes starts the pods; see platform",
    "EXTRACT_FEATURES.*": "features are written to the run directory in parts of fixed size",
    "DATA.PIN_MEMORY": _LOADING,
    "DATA.ENABLE_ASYNC_GPU_COPY": _LOADING,
    "DATA.DDP_BUCKET_CAP_MB": _TORCHRUN,
    "DATA.*.USE_DEBUGGING_SAMPLER": _LOADING,
    "DATA.*.USE_STATEFUL_DISTRIBUTED_SAMPLER": "every training resumes at the step it had reached",
    "DATA.*.DROP_LAST": (
        "training drops the images that do not fill a last global batch, extraction and "
        "clustering take every image"
    ),
    "DATA.*.BASE_DATASET": _LOADING,
    "DATA.*.MMAP_MODE": _LOADING,
    "DATA.*.DEFAULT_GRAY_IMG_SIZE": _UNREADABLE,
    "DATA.*.ENABLE_QUEUE_DATASET": _UNREADABLE,
    "DATA.*.COPY_TO_LOCAL_DISK": _LOCAL_COPY,
    "DATA.*.COPY_DESTINATION_DIR": _LOCAL_COPY,
    "DATA.*.INPUT_KEY_NAMES": _LOADING,
    "DATA.*.TARGET_KEY_NAMES": _LOADING,
    "DATA.*.COLLATE_FUNCTION_PARAMS": _UNUSED,
    "DATA.*.COLLATE_FUNCTION_PARAMS.*": _UNUSED,
    "MACHINE.*": _TORCHRUN,
    "MODEL.CUDA_CACHE.*": _MEMORY,
    "MODEL.TEMP_FROZEN_PARAMS_ITER_MAP": _UNUSED,
    "MODEL.MULTI_INPUT_HEAD_MAPPING": _UNUSED,
    "MODEL.SINGLE_PASS_EVERY_CROP": _UNUSED,
    "MODEL.ACTIVATION_CHECKPOINTING.*": _MEMORY,
    "MODEL.SHARDED_DDP_SETUP.*": _MEMORY,
    "MODEL.FSDP_CONFIG.*": _MEMORY,
    "MODEL.GRAD_CLIP.*": "gradients are not clipped",
    "GRAD_CLIP.*": "gradients are not clipped",
    "MODEL.AMP_PARAMS.*": "precision decides: bf16 is autocast and needs no loss scaling",
    "MODEL.HEAD.*": _HEADS,
    "MODEL.TRUNK.CONVIT.*": _UNUSED,
    "MODEL.TRUNK.XCIT.*": _UNUSED,
    "MODEL.TRUNK.BEIT.*": _UNUSED,
    "MODEL.MODEL_COMPLEXITY.*": _LOGGED,
    "LOSS.*": "the loss is the mean cross-entropy, without images that have no label",
    "OPTIMIZER.use_zero": _MEMORY,
    "OPTIMIZER.larc_config.*": _UNUSED,
    "OPTIMIZER.betas": _UNUSED,
    "OPTIMIZER.head_optimizer_params.*": "head and backbone have one rate and one weight decay",
    "OPTIMIZER.param_schedulers.lr_head.*": "head and backbone have one rate",
    "OPTIMIZER.construct_single_param_group_only": _MEMORY,
    "CHECKPOINT.DIR": "everything goes to the run directory, named by `name`",
    "CHECKPOINT.*": _CHECKPOINTS,
    "DISTRIBUTED.*": _TORCHRUN,
    "CLUSTERFIT.OUTPUT_DIR": "everything goes to the run directory, named by `name`",
}
"""A key, or a pattern of keys, and why it changes nothing; the first that fits counts."""


_OUTSIDE: Final[dict[str, str]] = {
    "engine_name": "what the configuration asks for decides what is run",
    "VERSION": "all versions of VISSL's configurations are read",
    "node_id": "each pod knows its own number",
    "hydra.*": "there is no Hydra",
}
"""The same of keys that do not stand below `config`."""


def explain_outside(path: str) -> str:
    """Return why a key beside `config` changes nothing here; empty: it is not VISSL's."""
    for pattern, reason in _OUTSIDE.items():
        if fnmatchcase(path, pattern):
            return reason
    return ""


def explain_without_effect(name: str) -> str:
    """Return why a key changes nothing here; empty: it may, or is not known."""
    for pattern, reason in _WITHOUT_EFFECT.items():
        if fnmatchcase(name, pattern):
            return reason
    return ""

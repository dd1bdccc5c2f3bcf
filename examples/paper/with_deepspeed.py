"""DeepSpeed for processes on CPU cores: imported here, so that one import serves all of them."""

from __future__ import annotations

import logging
import os

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before deepspeed is imported

import deepspeed
import deepspeed.ops
from deepspeed.utils import logger

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else a collective is compiled, for a minute
logger.setLevel(logging.ERROR)

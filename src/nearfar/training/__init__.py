"""Training: settings, the optimizer, checkpoints, and the loop over them."""

from nearfar.training.config import Config, describe_config, parse_settings
from nearfar.training.loop import RunResult, train

__all__ = ["Config", "RunResult", "describe_config", "parse_settings", "train"]

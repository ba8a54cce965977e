"""Mask R-CNN for crowded images."""

import manymask.core.light_torchvision  # noqa: F401 - before any module here loads torchvision

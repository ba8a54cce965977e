"""Mask R-CNN for crowded images."""

import manymask.core.light_torchvision  # before any module here loads torchvision

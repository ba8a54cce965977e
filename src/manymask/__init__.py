"""Self-configuring Mask R-CNN instance segmentation for crowded images."""

__version__ = "0.1.0"

"""Mask R-CNN for crowded images."""

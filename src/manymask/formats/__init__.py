"""Readers and writers of images and labels."""

"""Readers and writers of images and labels."""

from manymask.formats.class_folders import write_class_folder as write_class_folder
from manymask.formats.coco_masks import encode_coco_results as encode_coco_results
from manymask.formats.conversion import convert as convert
from manymask.formats.datasets import check_dataset as check_dataset
from manymask.formats.datasets import read_dataset as read_dataset
from manymask.formats.label_images import write_label_image as write_label_image
from manymask.formats.skipped import find_skipped as find_skipped
from manymask.formats.submission import match_image_ids as match_image_ids
from manymask.formats.submission import read_image_ids as read_image_ids

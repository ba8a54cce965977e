"""Readers and writers of images and labels."""

from manymask.formats.class_folders import read_class_folders as read_class_folders
from manymask.formats.class_folders import write_class_folder as write_class_folder
from manymask.formats.coco import read_coco as read_coco
from manymask.formats.coco_masks import encode_coco_results as encode_coco_results
from manymask.formats.datasets import FORMATS as FORMATS
from manymask.formats.datasets import DatasetCheck as DatasetCheck
from manymask.formats.datasets import ImageCheck as ImageCheck
from manymask.formats.datasets import check_dataset as check_dataset
from manymask.formats.datasets import check_sample as check_sample
from manymask.formats.datasets import detect_format as detect_format
from manymask.formats.datasets import open_dataset as open_dataset
from manymask.formats.datasets import read_dataset as read_dataset
from manymask.formats.datasets import sum_up_checks as sum_up_checks
from manymask.formats.ids import check_size as check_size
from manymask.formats.ids import read_ids as read_ids
from manymask.formats.ids import renumber_ids as renumber_ids
from manymask.formats.label_images import read_label_images as read_label_images
from manymask.formats.label_images import write_label_image as write_label_image
from manymask.formats.mask_files import read_mask_files as read_mask_files
from manymask.formats.skipped import find_skipped as find_skipped
from manymask.formats.stored import StoredPredictions as StoredPredictions
from manymask.formats.stored import read_predictions as read_predictions
from manymask.formats.submission import ImageId as ImageId
from manymask.formats.submission import match_image_ids as match_image_ids
from manymask.formats.submission import read_image_ids as read_image_ids
from manymask.formats.submission import write_submission as write_submission

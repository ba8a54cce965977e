"""Masks of many instances without a full-size mask for each: layers, runs and the tables beside them."""

from manymask.core.classes import ONE_CLASS as ONE_CLASS
from manymask.core.classes import match_categories as match_categories
from manymask.core.dataset import Category as Category
from manymask.core.dataset import Dataset as Dataset
from manymask.core.dataset import Doubt as Doubt
from manymask.core.dataset import Problem as Problem
from manymask.core.dataset import Record as Record
from manymask.core.dataset import Sample as Sample
from manymask.core.instances import Instances as Instances
from manymask.core.instances import concatenate_instances as concatenate_instances
from manymask.core.layers import InstanceLayers as InstanceLayers
from manymask.core.layers import compact_layers as compact_layers
from manymask.core.layers import encode_layers as encode_layers
from manymask.core.layers import find_layers as find_layers
from manymask.core.layers import paint_layers as paint_layers
from manymask.core.merging import merge_views as merge_views
from manymask.core.overlap import Overlaps as Overlaps
from manymask.core.overlap import compute_iou as compute_iou
from manymask.core.overlap import intersect_runs as intersect_runs
from manymask.core.runs import RunLengths as RunLengths
from manymask.core.runs import concatenate_runs as concatenate_runs
from manymask.core.runs import decode_coco_rle as decode_coco_rle
from manymask.core.runs import encode_coco_rle as encode_coco_rle
from manymask.core.runs import encode_crops as encode_crops

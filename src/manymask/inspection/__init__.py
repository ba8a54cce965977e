"""A look at a data set before anything is trained on it: what is wrong, what it is like, and a repaired copy."""

from manymask.inspection.fingerprint import Fingerprint as Fingerprint
from manymask.inspection.inspecting import inspect as inspect
from manymask.inspection.inspector import group_images as group_images

"""A look at a data set before anything is trained on it: what is wrong, what it is like, and a repaired copy."""

from manymask.inspection.fingerprint import Fingerprint as Fingerprint
from manymask.inspection.fingerprint import read_fingerprint as read_fingerprint
from manymask.inspection.inspecting import inspect as inspect
from manymask.inspection.inspector import Inspection as Inspection
from manymask.inspection.inspector import group_images as group_images
from manymask.inspection.inspector import inspect_dataset as inspect_dataset
from manymask.inspection.measurement import ImageFacts as ImageFacts
from manymask.inspection.tables import describe_copy as describe_copy
from manymask.inspection.tables import format_findings as format_findings
from manymask.inspection.tables import format_fingerprint as format_fingerprint
from manymask.inspection.tables import format_treatments as format_treatments

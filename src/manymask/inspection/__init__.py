"""A look at a data set before anything is trained on it: what is wrong, what it is like, and a repaired copy."""

from manymask.inspection.inspect import inspect as inspect
from manymask.inspection.reading import Inspection as Inspection
from manymask.inspection.reading import Repair as Repair
from manymask.inspection.reading import group_images as group_images
from manymask.inspection.reading import inspect_dataset as inspect_dataset
from manymask.inspection.repair import write_repaired as write_repaired
from manymask.inspection.summary import describe_copy as describe_copy
from manymask.inspection.summary import format_findings as format_findings
from manymask.inspection.summary import format_fingerprint as format_fingerprint
from manymask.inspection.summary import format_treatments as format_treatments

"""Pictures: instances over images, and curves."""

from manymask.drawing.curves import draw_curves as draw_curves
from manymask.drawing.curves import draw_overlaid_curves as draw_overlaid_curves
from manymask.drawing.overlays import PALETTE as PALETTE
from manymask.drawing.overlays import check_instances as check_instances
from manymask.drawing.overlays import decode_crop as decode_crop
from manymask.drawing.overlays import draw_overlay as draw_overlay
from manymask.drawing.overlays import to_8bit as to_8bit
from manymask.drawing.overlays import write_overlay as write_overlay

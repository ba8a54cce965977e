"""Image files and the intensities in them."""

from manymask.imaging.files import find_images as find_images
from manymask.imaging.files import list_choices as list_choices
from manymask.imaging.files import open_image as open_image
from manymask.imaging.files import read_pixels as read_pixels
from manymask.imaging.in_memory import Pixels as Pixels
from manymask.imaging.in_memory import get_pixels as get_pixels
from manymask.imaging.in_memory import is_pixels as is_pixels
from manymask.imaging.planes import ONE_PLANE as ONE_PLANE
from manymask.imaging.planes import PlaneChoice as PlaneChoice

"""Colours of classes, the same in pictures, reports and files."""

PALETTE = (
    (240, 228, 66),
    (0, 158, 115),
    (213, 94, 0),
    (86, 180, 233),
    (230, 159, 0),
    (0, 114, 178),
    (204, 121, 167),
)
"""Okabe and Ito, "Color Universal Design" (2008), without black, in the order that shows best on stained tissue."""

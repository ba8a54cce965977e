"""Pictures: instances over images, and curves."""

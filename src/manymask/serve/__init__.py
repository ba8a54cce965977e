"""The server: images that people look at, what is found in them, and how they correct it."""

"""What data is like, what is wrong with it, and the settings of a run that follow."""

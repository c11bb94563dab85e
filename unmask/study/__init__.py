"""Studies: the same budget for several methods, tuned alike, over several seeds, on one page."""

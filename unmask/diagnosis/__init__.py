"""How far likelihood estimates and gradients scatter with the number of draws, for one model.

What is measured lies in `estimates` and `gradients`; `run` measures a recipe and `table` shows it.
"""

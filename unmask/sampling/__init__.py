"""The unmasking loop: its settings, the orders of revealing, and the choice of tokens."""

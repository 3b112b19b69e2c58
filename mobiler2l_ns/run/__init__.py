"""One training run: its phases, its trainer, and opening it again."""

"""A run: its parameters, its folder, what it depends on."""

"""What notebooks call: chapters and exercises."""

"""Loops of one's own with a guard in them: plain PyTorch, and Lightning."""

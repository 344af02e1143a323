"""Plans and checkpoints on disk."""

"""Hugging Face models: where their feed-forward networks are, how large they are, how they are read and cut."""

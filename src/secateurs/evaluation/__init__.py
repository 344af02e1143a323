"""Scoring a model: perplexity, embeddings, speed."""

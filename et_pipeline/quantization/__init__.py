"""Recipes over torchao."""

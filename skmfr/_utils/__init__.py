"""Helpers for all layers, which import none of them."""

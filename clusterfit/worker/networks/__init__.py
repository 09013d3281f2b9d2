"""Backbones: built by name, cut at a layer, frozen for inference."""

"""Labelled faces: samples, readers of the official collections, cached crops, augmentation."""

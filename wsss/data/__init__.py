"""Records of several layers joined by key, images as tensors, augmentation."""

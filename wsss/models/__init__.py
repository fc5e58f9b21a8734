"""The networks: encoders, the heads on top of them and the decoders; only here are timm and segmentation_models_pytorch."""

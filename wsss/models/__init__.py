"""The networks: encoders, the heads on top of them and the decoders; timm and segmentation_models_pytorch end here."""

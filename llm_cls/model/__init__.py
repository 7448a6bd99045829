"""The network: pretrained weights, adapter, pooling and head."""

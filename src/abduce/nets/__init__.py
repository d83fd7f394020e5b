"""Plain networks: what encoders and decoders are made of."""

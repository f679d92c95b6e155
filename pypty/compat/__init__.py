"""PyPty's modules ``utils``, ``vaa`` and ``se``, by PyPty's names."""

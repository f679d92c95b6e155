"""The modules ``utils``, ``vaa`` and ``se`` of PyPty 2.2, with its names."""

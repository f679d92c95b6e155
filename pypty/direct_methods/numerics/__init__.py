"""The numerics of the direct methods: arrays in, arrays out."""

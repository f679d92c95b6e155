"""Edits and constraints between epochs: filters, flips, orthogonal modes, a larger object, a reassembled scan."""

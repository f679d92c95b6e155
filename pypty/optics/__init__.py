"""Pure formulas of electron optics, with units. No state, no parameters dict."""

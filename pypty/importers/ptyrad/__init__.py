"""PtyRAD: its model files, and its parameter files translated key by key."""

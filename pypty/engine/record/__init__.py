"""What a run leaves while it goes on: its restart file, its folder, what the user sees."""

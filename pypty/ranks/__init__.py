"""Messages between the processes of one reconstruction, and how these processes are started."""

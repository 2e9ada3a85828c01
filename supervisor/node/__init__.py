"""Every decision of the supervisor. No file here has a clock, a socket, a file or a process."""

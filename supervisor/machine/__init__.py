"""What the supervisor does with the operating system: processes, sockets, files, rights, the service manager."""

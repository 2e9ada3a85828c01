"""The operating system as the supervisor uses it: processes, sockets, files, rights, the service manager."""

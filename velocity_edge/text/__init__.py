"""Text that leaves the process: log lines, and functions that make untrusted text safe to print."""

"""Text that leaves the process: log lines, and what makes the text of others safe to print."""

"""One worker process: its orders and reports, its privileges, CPU, memory and priority."""

"""One worker process on its machine: rights, CPU, memory, priority."""

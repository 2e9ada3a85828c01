"""`python -I -m velocity_edge`: the command line, for where scripts are not installed."""

from velocity_edge.cli import main

if __name__ == "__main__":
    main()

"""`python -m verbspace` is the `verbspace` program."""

from verbspace.cli.main import main

if __name__ == "__main__":
    main()

"""`python -m verbspace` is the `verbspace` program."""

from verbspace.cli.main import main

main()

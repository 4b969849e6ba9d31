"""`python -m wsolkit ...`, which is what torchrun starts."""

from wsolkit.cli.main import main

main()

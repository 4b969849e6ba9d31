"""`python -m wsolkit ...`, which is what torchrun starts: `torchrun --nproc-per-node 2 -m wsolkit train ...`."""

from .cli import main

main()

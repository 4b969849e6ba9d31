"""Pages: what a reader opens. Reports and the index, made from the files of runs; nothing here computes a result."""

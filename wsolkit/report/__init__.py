"""Pages: a report for each run, and the index."""

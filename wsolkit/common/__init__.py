"""What every wing uses: files by rename, progress, processes, digests of code."""

"""Many runs: specification, jobs, reasons, scheduler, workers."""

"""From score maps and ground truth to metrics, intervals, failure types and comparisons."""

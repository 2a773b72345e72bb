"""The benchmarks behind docs/performance.md, run by one command: `python -m benchmarks`."""

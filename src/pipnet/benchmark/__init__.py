"""Benchmark of speed, memory and accuracy. Candidates are interleaved in one run, so that ratios hold."""

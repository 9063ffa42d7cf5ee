"""How fast it is: side by side in one run, so that ratios hold on a noisy machine."""

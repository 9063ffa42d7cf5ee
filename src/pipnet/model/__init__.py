"""The network: backbone -> neck -> head, and the neighbours it votes with. Needs torch."""

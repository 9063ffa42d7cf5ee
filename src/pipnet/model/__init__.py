"""The network: backbone -> neck -> head, and the neighbors it votes with. Needs torch."""

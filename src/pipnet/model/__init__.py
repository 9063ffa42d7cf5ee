"""The network: backbone -> neck -> head. Needs torch, all but `pipnet.model.config`."""

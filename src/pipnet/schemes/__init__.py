"""The landmark schemes that come with pipnet, one TOML each; see `pipnet.scheme`."""

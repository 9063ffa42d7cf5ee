"""Files: images, atomic writes, discovery."""

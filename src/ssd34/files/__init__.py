"""Files and folders: written whole, locked, unpacked, downloaded."""

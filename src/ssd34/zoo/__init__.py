"""Published files: what there is, where it lies, how it comes here."""

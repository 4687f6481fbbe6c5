"""Files that others are given: checked, with test data, card and manifest."""

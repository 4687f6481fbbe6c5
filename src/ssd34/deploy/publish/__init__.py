"""Files that others are given: checked, with test data, model card and manifest."""
